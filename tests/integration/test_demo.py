"""`make run` on real weights: everything is answered, the outage is survived, and no identifier crosses the wire."""

import base64
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from partition.errors import ModelStoreError
from partition.store.model_store import ModelStore
from samples.demo import CLOUD_MODEL, EDGE_MODEL, leaks
from samples.wiretap import Capture

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    for name in (EDGE_MODEL, CLOUD_MODEL):
        try:
            ModelStore().get(name)
        except ModelStoreError as error:
            pytest.skip(f"the model cannot be had: {error}")
    folder = tmp_path_factory.mktemp("demo") / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "samples.demo"],
        cwd=ROOT,
        env={**os.environ, "TANDEM_DEMO_FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    return folder, done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_ends_well_and_shows_the_outage(demo):
    _, done = demo
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "QUEUED" in done.stdout
    assert "delivered" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_identifier_of_the_samples_is_in_the_captured_bytes(demo):
    folder, _ = demo
    lines = [json.loads(line) for line in (folder / "capture.jsonl").read_text().splitlines()]
    sent = [base64.b64decode(line["base64"]) for line in lines]
    assert sum(len(item) for item in sent) > 5000
    text = unicodedata.normalize("NFKC", b"\n".join(sent).decode("utf-8", "replace")).casefold()
    assert "findings" in text  # the capture holds the requests, not only their metadata
    identifiers = json.loads((SAMPLES / "identifiers.json").read_text(encoding="utf-8"))
    assert sum(map(len, identifiers.values())) > 100
    for name, values in identifiers.items():
        for value in values:
            if len(value) >= 5:
                assert value.casefold() not in text, f"{name}: an identifier crossed the wire"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_identifier_is_in_a_log_or_in_clear_on_the_disk(demo):
    folder, done = demo
    identifiers = json.loads((SAMPLES / "identifiers.json").read_text(encoding="utf-8"))
    shown = done.stderr
    stored = b"".join(
        path.read_bytes()
        for path in (
            *folder.glob("*.log"),
            *folder.glob("edge-state/*"),
            *folder.glob("cloud-state/*"),
        )
        if path.is_file()
    )
    for values in identifiers.values():
        for value in values:
            if len(value) >= 6:
                assert value not in shown
                assert value.encode() not in stored


def test_the_check_for_leaks_finds_what_it_should():
    identifiers = {"a": ["John Smith"], "b": ["Ana"], "c": ["123-45-6789"], "d": ["王伟"]}
    clean = (Capture("/m", b"analysis of [PERSON_1], banana"),)
    assert leaks(clean, identifiers) == []
    for text, count in (
        ("SMITH JOHN, john  smith", 1),
        ("(Ana)", 1),
        ("ssn 123456789", 0 + 1),
        ("患者王伟好", 1),
    ):
        assert len(leaks((Capture("/m", text.encode()),), identifiers)) == count, text
