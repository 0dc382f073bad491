"""The device runs without torch and transformers: proved in an environment that holds only the extra `edge`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from partition.errors import ModelStoreError
from partition.store.model_store import ModelStore

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"

WHOLE_REQUEST = """
import sys
from edge_agent import EdgeAgent

with EdgeAgent.from_config(sys.argv[1], offline=True) as agent:
    answer = agent.ask("Patient John Smith, MRN 4711023. Heart size is normal. Lungs are clear.", task="cxr-triage")
assert answer.text in ("normal", "abnormal"), answer.route
assert sum(answer.num_replaced.values()) >= 2
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "transformers", "tensorflow", "jax"}))
"""


@pytest.fixture(scope="module")
def edge_only_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge-only")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{ROOT}[edge]"],
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode != 0:
        pytest.skip(
            f"no package registry can be reached to install the extra: {install.stderr[-200:]}"
        )
    return python


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_extra_brings_no_torch_and_answers_a_request(edge_only_python, tmp_path):
    for heavy in ("torch", "transformers"):
        found = subprocess.run(
            [edge_only_python, "-c", f"import {heavy}"], capture_output=True, check=False
        )
        assert found.returncode == 1, f"{heavy} came with the extra"
    try:
        ModelStore().get(MODEL)
    except ModelStoreError as error:
        pytest.skip(f"the model cannot be had: {error}")
    config = tmp_path / "edge.toml"
    config.write_text(f'state_folder = "state"\n[model]\nname = "{MODEL}"\n')
    done = subprocess.run(
        [edge_only_python, "-W", "error::ImportWarning", "-c", WHOLE_REQUEST, config],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_console_script_works_there(edge_only_python, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"id": 1, "text": "Lungs are clear."}\n{"id": 2}\nnot json\n'
    )
    script = edge_only_python.parent / "edge-agent"
    done = subprocess.run(
        [
            script,
            "run",
            "--task",
            "cxr-triage",
            "--input",
            "in.jsonl",
            "--output",
            "out.jsonl",
            "--offline",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(Path.home()),
            "TANDEM_EDGE_STATE_FOLDER": str(tmp_path / "state"),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, None]
    assert lines[0]["route"] in ("LOCAL", "QUEUED")
    assert "error" in lines[1]
    assert "error" in lines[2]
