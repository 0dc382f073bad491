"""A label head: it learns from hidden states, travels as a file, and what it learned from proves nothing later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from partition.calibration.calibration import Claim, certify, divide
from partition.calibration.head_training import train_head
from partition.calibration.label_head import LabelHead
from partition.calibration.records import Record, read_records, to_json_line
from partition.cli import partition
from partition.errors import CalibrationError
from partition.fingerprint import Setup

LABELS = ("up", "down", "flat")


def draw(n: int, seed: int = 0, labels: tuple[str, ...] = LABELS) -> tuple[Record, ...]:
    """The model says the same label to everything; its hidden state knows better."""
    rng = np.random.default_rng(seed)
    directions = 2.0 * np.random.default_rng(9).normal(size=(len(labels), 16))
    made = []
    for index in range(n):
        truth = int(rng.integers(len(labels)))
        hidden = directions[truth] + 2.0 * rng.normal(size=16) + 50.0
        made.append(
            Record(
                id=f"{seed}-{index}",
                score=0.0,
                loss=float(labels[truth] != labels[0]),
                task="t",
                truth=labels[truth],
                hidden=tuple(hidden.astype(np.float32).tolist()),
                setup="a" * 64,
            )
        )
    return tuple(made)


def share_right(head: LabelHead, records: tuple[Record, ...]) -> float:
    def says(record: Record) -> str:
        logs = head.log_probabilities(record.hidden)
        assert logs is not None
        return head.labels[int(np.argmax(logs))]

    return float(np.mean([says(record) == record.truth for record in records]))


@pytest.mark.parametrize("labels", [LABELS, LABELS[:2]])
def test_head_knows_fresh_records_as_well_as_it_says(labels: tuple[str, ...]) -> None:
    training = train_head(draw(600, labels=labels))
    assert training.right > 0.85 > training.right_before
    assert share_right(training.head, draw(2000, 1, labels)) == pytest.approx(
        training.right, abs=0.04
    )


def test_log_probabilities_are_a_distribution_and_need_the_width() -> None:
    head = train_head(draw(200)).head
    logs = head.log_probabilities(draw(1)[0].hidden)
    assert logs is not None
    assert np.exp(logs).sum() == pytest.approx(1.0)
    assert head.log_probabilities((1.0, 2.0)) is None


def test_file_gives_the_same_head(tmp_path: Path) -> None:
    head = train_head(draw(200)).head
    (tmp_path / "t.json").write_text(head.to_json())
    again = LabelHead.load(tmp_path / "t.json")
    assert again == head
    assert again.sha256 == head.sha256
    assert replace(head, intercepts=(0.0, 0.0, 1.0)).sha256 != head.sha256


@pytest.mark.parametrize(
    ("key", "value"), [("width", 15), ("weights", "!"), ("intercepts", [0.0]), ("version", 2)]
)
def test_damaged_file_is_one_sentence(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(json.loads(train_head(draw(200)).head.to_json()) | {key: value}))
    with pytest.raises(CalibrationError, match="train the head again") as caught:
        LabelHead.load(path)
    assert "\n" not in str(caught.value)


def test_part_of_the_clusters_is_left_for_calibration() -> None:
    records = draw(400)
    head = train_head(records, percent=50).head
    assert head.num_records == len(head.learned_from) == 200
    marked = tuple(
        replace(record, was_learned=record.cluster_key in head.learned_from) for record in records
    )
    parts = divide(marked)
    assert len(parts.dev) + len(parts.test) == parts.num_learned == 200
    assert not any(record.was_learned for record in (*parts.dev, *parts.test))
    notes = certify(parts, Claim(max_error=0.05, confidence=0.95)).notes
    assert any("200 records were left out" in note for note in notes)
    with pytest.raises(CalibrationError, match="label others"):
        divide([replace(record, was_learned=True) for record in records])


def test_what_cannot_be_learned_from_is_said() -> None:
    with pytest.raises(CalibrationError, match="--record-hidden"):
        train_head([replace(record, hidden=()) for record in draw(50)])
    with pytest.raises(CalibrationError, match="label more"):
        train_head(draw(12))
    with pytest.raises(CalibrationError, match="differ in more than digits"):
        train_head([replace(record, cluster="one") for record in draw(50)], percent=50)
    with pytest.raises(CalibrationError, match="which setup"):
        train_head([replace(record, setup="") for record in draw(200)])


def test_command_writes_a_head_that_records_survive(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("".join(map(to_json_line, draw(300))))
    assert read_records(records)[0].truth in LABELS
    output = tmp_path / "t.json"
    arguments = ["train-head", "--records", str(records), "--output", str(output)]
    done = CliRunner().invoke(partition, arguments)
    assert done.exit_code == 0, done.output
    assert "Learned from 150 records" in done.output
    assert LabelHead.load(output).task == "t"


def test_a_head_is_part_of_the_setup_and_none_changes_nothing() -> None:
    setup = Setup(
        model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
    )
    # Of a version from before there were heads.
    assert setup.sha256 == "7ac8c7cd6360caeaf7a43b768d58b71a41ee42488d899b45521b39b796467e23"
    assert replace(setup, head_sha256="b" * 64).sha256 != setup.sha256
