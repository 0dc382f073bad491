"""Every command of the README does what it says: they are taken from the file and run, in its order."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partition.errors import ModelStoreError
from partition.store.model_store import ModelStore

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = ("edge-agent", "cloud-service", "partition")
REPORTS = [
    "Heart size is normal. Lungs are clear.",
    "Large left effusion.",
    "Mr. Brown has pneumonia.",
]
SMALL_CLOUD = "qwen2.5-coder-0.5b-instruct"


def commands() -> list[str]:
    """The indented lines that call one of our scripts."""
    lines = re.findall(r"^    (\S.*)$", README, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines if line.startswith(SCRIPTS)]


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        ModelStore().get("smollm2-135m-instruct")
    except ModelStoreError as error:
        pytest.skip(f"the model cannot be had: {error}")
    folder = tmp_path_factory.mktemp("readme")
    for name in ("reports", "notes", "labelled"):
        lines = [
            json.dumps({"id": number, "text": text, "label": "normal"})
            for number, text in enumerate(REPORTS)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "edge.toml").write_text('state_folder = "state"\n')
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TANDEM_EDGE_STATE_FOLDER": str(folder / "state"),
    }


def test_readme_names_the_commands_we_think():
    assert {shlex.split(command)[1] for command in commands()} >= {
        "ask",
        "run",
        "anonymize",
        "status",
        "init",
        "serve",
        "calibrate",
    }
    assert len(snippets()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if " serve" not in c])
def test_command(command, folder, environment):
    words = shlex.split(command)
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if "--output" in words:
        output = (folder / words[words.index("--output") + 1]).read_text()
        if words[0] == "edge-agent":
            lines = [json.loads(line) for line in output.splitlines()]
            assert [line["id"] for line in lines] == list(range(len(REPORTS)))
            assert not any("error" in line for line in lines)
        else:
            assert json.loads(output)["status"] in ("certified", "not_certified")


@pytest.mark.slow
def test_snippet(folder, environment):
    done = subprocess.run(
        [sys.executable, "-c", snippets()[0]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[1] in ("LOCAL", "QUEUED")


@pytest.mark.slow
def test_the_cloud_serves(folder, environment):
    command = next(c for c in commands() if c.startswith("cloud-service serve"))
    if not ModelStore().has(SMALL_CLOUD):
        pytest.skip(
            f"{SMALL_CLOUD} is not in the cache; run `edge-agent models pull {SMALL_CLOUD}`"
        )
    # The command as it stands, on what the README's own `init pki` wrote; a smaller model and any port keep the test short.
    environment = {
        **environment,
        "TANDEM_CLOUD_LISTEN": "127.0.0.1:0",
        "TANDEM_CLOUD_MODEL__NAME": SMALL_CLOUD,
    }
    ready = folder / "ready.json"
    server = subprocess.Popen(
        [*shlex.split(command), "--ready-file", ready],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ready.exists(), server.stderr.read()[-2000:]
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
