"""A gate before the local model: it stops what would be answered in vain, keeps nearly all else, and no promise breaks by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from partition.calibration.calibration import Claim, certify, divide
from partition.calibration.certificate import Certificate
from partition.calibration.gate_training import KEPT, through, train_gate
from partition.calibration.prompt_gate import GATED_SCORE, WIDTH, PromptGate, prompt_vector
from partition.calibration.records import Record, to_json_line
from partition.cli import partition
from partition.errors import CalibrationError

CLAIM = Claim(max_error=0.05, confidence=0.95)


def draw(n: int, seed: int = 0) -> tuple[Record, ...]:
    """Requests with the word "hard" get low scores and wrong answers; the gate can read it."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(n):
        is_hard = rng.random() < 0.4
        score = float(rng.normal(-4.0 if is_hard else 2.0))
        right = rng.random() < (0.5 if is_hard else 0.995)
        words = " ".join(f"word{value}" for value in rng.integers(0, 8, 3))
        made.append(
            Record(
                id=f"{seed}-{index}",
                score=score,
                loss=float(not right),
                task="t",
                setup="a" * 64,
                prompt=prompt_vector(f"{words} {'hard' if is_hard else 'easy'}"),
            )
        )
    return tuple(made)


@given(st.text())
def test_vectors_are_of_length_one_and_case_says_nothing(text: str) -> None:
    vector = prompt_vector(text)
    assert len(vector) == WIDTH
    norm = float(np.linalg.norm(vector))
    assert norm == pytest.approx(1.0, abs=1e-5) or norm == 0.0
    assert prompt_vector("Clear LUNGS") == prompt_vector("clear lungs")


def test_gate_spares_what_would_be_answered_in_vain() -> None:
    division = divide(draw(2000))
    training = train_gate(division, max_error=0.01)  # the easy ones alone keep it
    assert 0.25 < training.stopped < 0.55  # two in five are hard
    assert training.lost < 2.5 * (1 - KEPT)
    plain, behind = certify(division, CLAIM), certify(training.division, CLAIM)
    assert behind.local_share > 0.8 * plain.local_share
    fresh = draw(3000, seed=1)
    passed = [record for record in through(fresh, training.gate) if record.score > GATED_SCORE]
    assert 0.45 < len(passed) / len(fresh) < 0.75


def test_stopped_records_are_never_accepted() -> None:
    training = train_gate(divide(draw(2000)), max_error=0.05)
    certificate = certify(training.division, Claim(max_error=0.9, confidence=0.95))
    stopped = sum(record.score == GATED_SCORE for record in training.division.test)
    # Even a limit that everything keeps counts what is stopped as wrong.
    assert certificate.threshold is not None
    assert certificate.errors >= stopped or certificate.threshold > GATED_SCORE


def test_a_gate_is_part_of_the_fingerprint() -> None:
    division = divide(draw(500))
    plain = certify(division, CLAIM)
    assert certify(division, CLAIM, gate_sha256="").fingerprint == plain.fingerprint
    assert certify(division, CLAIM, gate_sha256="b" * 64).fingerprint != plain.fingerprint


def test_file_gives_the_same_gate_and_damage_is_said(tmp_path: Path) -> None:
    gate = train_gate(divide(draw(600)), max_error=0.05).gate
    path = tmp_path / "t.json"
    path.write_text(gate.to_json())
    assert PromptGate.load(path) == gate
    path.write_text(json.dumps(json.loads(gate.to_json()) | {"weights": "AAAA"}))
    with pytest.raises(CalibrationError, match="train the gate again"):
        PromptGate.load(path)


def test_what_cannot_be_learned_is_said() -> None:
    with pytest.raises(CalibrationError, match="--record-hidden"):
        train_gate(divide([replace(record, prompt=()) for record in draw(300)]), max_error=0.05)
    sure = [replace(record, score=5.0, loss=0.0) for record in draw(300)]
    with pytest.raises(CalibrationError, match="without --train-gate"):
        train_gate(divide(sure), max_error=0.05)


def test_command_trains_and_reuses_a_gate(tmp_path: Path) -> None:
    records, gate = tmp_path / "r.jsonl", tmp_path / "gate.json"
    records.write_text("".join(map(to_json_line, draw(1500))))

    def run(name: str, *arguments: str) -> Certificate:
        output = tmp_path / name
        done = CliRunner().invoke(
            partition,
            [
                "calibrate",
                "--records",
                str(records),
                "--max-error",
                "0.05",
                "--output",
                str(output),
                *list(arguments),
            ],
        )
        assert done.exit_code == 0, done.output
        assert ("spares the local model" in done.output) == ("--train-gate" in arguments)
        return Certificate.load(output)

    trained = run("1.json", "--train-gate", str(gate))
    again = run("2.json", "--gate", str(gate))
    plain = run("3.json")
    assert trained.fingerprint == again.fingerprint != plain.fingerprint
    assert trained.local_share > 0.3
