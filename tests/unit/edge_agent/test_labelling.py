"""Label heads on the device: bound to what they were trained for, and in place of the model's own choice."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.confidence import assess
from edge_agent.errors import ConfigError
from edge_agent.flow import LabelScore, LocalAnswer
from edge_agent.labelling import relabelled, with_heads
from partition.calibration.label_head import LabelHead
from partition.fingerprint import Setup
from partition.task import Task, TaskKind

TASK = Task(name="triage", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
SETUP = Setup(
    model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
)
HEAD = LabelHead(
    task="triage",
    labels=("abnormal", "normal"),
    setup=SETUP.sha256,
    weights=((1.0, 0.0), (0.0, 1.0)),
    intercepts=(0.5, 0.0),
)
ANSWER = LocalAnswer(
    text="normal",
    token_log_probabilities=(-0.1,),
    label_scores=(
        LabelScore(label="normal", log_probability=-0.1),
        LabelScore(label="abnormal", log_probability=-3.0),
    ),
    first_entropy=0.4,
    num_input_tokens=9,
    num_output_tokens=1,
    hidden=(2.0, 0.0),
)


def install(folder: Path, head: LabelHead) -> Path:
    (folder / "triage.json").write_text(head.to_json())
    return folder


def test_head_chooses_the_label_and_its_odds_become_the_score() -> None:
    answer = relabelled(ANSWER, HEAD)
    assert answer.text == "abnormal"
    assert {score.label for score in answer.label_scores} == set(TASK.labels)
    assert assess(answer, TASK, None).score == pytest.approx(2.5)
    assert answer.first_entropy == ANSWER.first_entropy


def test_hidden_state_of_another_width_leaves_the_answer_as_it_was() -> None:
    answer = replace(ANSWER, hidden=(1.0,))
    assert relabelled(answer, HEAD) is answer


def test_head_is_part_of_the_setup_that_runs(tmp_path: Path) -> None:
    setups, heads = with_heads({"triage": SETUP}, {"triage": TASK}, install(tmp_path, HEAD))
    assert heads == {"triage": HEAD}
    assert setups["triage"].sha256 != SETUP.sha256
    assert with_heads({"triage": SETUP}, {"triage": TASK}, None) == ({"triage": SETUP}, {})


def test_head_of_another_model_is_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        setups, heads = with_heads(
            {"triage": replace(SETUP, model="other")}, {"triage": TASK}, install(tmp_path, HEAD)
        )
    assert not heads
    assert not setups["triage"].head_sha256
    assert "train it again" in caplog.text


@pytest.mark.parametrize("change", [{"task": "other"}, {"labels": ("abnormal", "odd")}])
def test_head_of_another_task_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="train one for this task"):
        with_heads({"triage": SETUP}, {"triage": TASK}, install(tmp_path, replace(HEAD, **change)))


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        with_heads({"triage": SETUP}, {"triage": TASK}, tmp_path / "none")
