"""The anonymizer needs no network: with every socket forbidden it is loaded and works; nothing is looked up or reported."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys

def forbid(event, arguments):
    if event.startswith("socket.") or event in ("urllib.Request", "http.client.connect"):
        raise RuntimeError(f"the anonymizer touched the network: {event}")

sys.addaudithook(forbid)
from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.vault import Vault
from partition.store.model_store import ModelStore

store = ModelStore(offline=True)
texts = {
    "en": ("Patient: Ottoline Quillfeather, MRN 4417082, tel (614) 555-0142, seen on 3 May 2024.", "Quillfeather"),
    "pt": ("Paciente: Ottoline Quillfeather, CPF 529.982.247-25, ligar (11) 98765-4321.", "Quillfeather"),
}
if store.has("lac"):
    texts["zh"] = ("患者姓名：赵俊杰，住院号：44170821，电话：13812345678。", "赵俊杰")
anonymizer = Anonymizer.open(store, languages=tuple(texts))
for language, (text, name) in texts.items():
    for asked in (language, None):
        (masked,) = anonymizer.replace((text,), Vault(), language=asked).texts
        assert name not in masked and "PERSON_1" in masked, masked
for name in ("spacy", "torch", "transformers", "presidio_analyzer", "tldextract"):
    assert name not in sys.modules, name
print("sealed")
"""


def test_no_socket_is_made() -> None:
    done = subprocess.run(  # the hook cannot be taken off again, so it gets a process of its own
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "sealed", done.stderr[-2000:]
