"""The whole way of an operator with labelled texts: records, a label head, records again, an adaptive threshold, a judged audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from edge_agent import EdgeAgent, Route
from edge_agent.assembly import KEY_FILE
from edge_agent.batch import run_batch
from edge_agent.cli import edge_agent
from edge_agent.keystore import KEY_BYTES
from partition.calibration.records import read_records
from partition.cli import partition
from tests.tiny_models import make_folder

TASK = """
name = "cxr"
kind = "classify"
labels = ["normal", "abnormal"]
[prompt]
template = "{text}"
"""

# The device's key decides which forty records the head learns from.
DEVICE_KEY = bytes([4]) * KEY_BYTES
# So often that a random model's hidden state shows it whichever forty they are: nine of ten fresh texts are then right, or more.
NORMAL, ABNORMAL = " ".join(["w7"] * 40), " ".join(["w8"] * 40)
ASKED = f"clear lungs {NORMAL}"


def device(folder: Path) -> Path:
    """A device with a tiny model that knows nothing; returns its configuration file."""
    model = folder / "model"
    make_folder(model)
    config = AutoConfig.from_pretrained(model)
    config.hidden_size, config.head_dim = 64, 16
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(model)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "cxr.toml").write_text(TASK)
    (folder / "heads").mkdir()
    (folder / "state").mkdir(mode=0o700)
    (folder / "state" / KEY_FILE).write_bytes(DEVICE_KEY)
    (folder / "state" / KEY_FILE).chmod(0o600)
    path = folder / "edge.toml"
    path.write_text(
        f'state_folder = "{folder / "state"}"\ncache_folder = "{folder / "cache"}"\n'
        'tasks = ["tasks"]\ndefault_task = "cxr"\noffline = true\nheads = "heads"\n'
        f'[model]\nname = "{model}"\nthreads = 1\ncontext_tokens = 256\n'
        '[audit]\nrate = 1.0\nby = "person"\n'
        '[adaptive]\ntasks = ["cxr"]\nmax_error = 0.2\nstart = 0.5\n'
    )
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return device(tmp_path)


def record(config: Path, name: str) -> Path:
    """Have the device answer labelled texts; the last word says the label."""
    folder = config.parent
    lines = [
        {
            "id": str(index),
            "text": f"{chr(97 + index % 26)} {chr(97 + index // 26)} {NORMAL if index % 2 else ABNORMAL}",
            "label": "normal" if index % 2 else "abnormal",
        }
        for index in range(80)
    ]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with EdgeAgent.from_config(config) as agent:
        run_batch(
            agent,
            task="cxr",
            source=folder / "labelled.jsonl",
            output=folder / "answers.jsonl",
            record=folder / name,
            record_hidden=True,
        )
    return folder / name


def invoke(command, *arguments: object) -> str:
    done = CliRunner().invoke(command, [str(part) for part in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_labelled_texts_to_a_judged_audit(config: Path) -> None:
    first = record(config, "first.jsonl")
    before = read_records(first)
    assert not any(item.was_learned for item in before)
    head = config.parent / "heads" / "cxr.json"
    said = invoke(partition, "train-head", "--records", first, "--output", head)
    assert "Learned from 40 records" in said

    after = read_records(record(config, "second.jsonl"))
    assert after[0].setup != before[0].setup  # a certificate from before is void
    assert sum(item.was_learned for item in after) == 40
    fresh = [item for item in after if not item.was_learned]
    # A random model, forty examples: better than before, and no more is asked of it here.
    assert sum(item.is_right for item in fresh) / len(fresh) > 0.1 + sum(
        item.is_right for item in before
    ) / len(before)

    with EdgeAgent.from_config(config) as agent:
        answer = agent.ask(ASKED)
    assert answer.route is Route.LOCAL
    assert "adaptive, long-run" in answer.reason
    assert "audit by a person" in answer.reason

    waiting = json.loads(invoke(edge_agent, "audits", "list", "--config", config, "--json"))
    case = next(item for item in waiting["waiting"] if item["text"] == ASKED)
    assert case["answer"] == answer.text
    before_judged = json.loads(invoke(edge_agent, "audits", "--config", config, "--json"))
    said = invoke(edge_agent, "audits", "judge", case["name"][:12], "wrong", "--config", config)
    assert "cxr" in said
    found = json.loads(invoke(edge_agent, "audits", "--config", config, "--json"))
    then, now = before_judged["adaptive"]["cxr"], found["adaptive"]["cxr"]
    assert now["num_pending"] == then["num_pending"] - 1
    assert now["threshold"] == pytest.approx(then["threshold"] + 0.01 * 0.8)
    assert "no confidence is promised" in invoke(edge_agent, "audits", "--config", config)
    texts = invoke(edge_agent, "audits", "list", "--config", config)
    assert ASKED not in texts  # judged: deleted from the device


def test_files_of_the_desk_hold_no_plain_text(config: Path) -> None:
    with EdgeAgent.from_config(config) as agent:
        agent.ask(ASKED)
    for path in (config.parent / "state").iterdir():
        if path.is_file():
            assert b"clear lungs" not in path.read_bytes()
