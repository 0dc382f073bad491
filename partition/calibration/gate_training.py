"""Train a gate before the local model, and put records through it. Needs scikit-learn (``train`` extra).

Learned from dev records alone: which of them reach the threshold that dev suggests. The gate is set so low that it keeps 98 % of
those; what it stops is what the local model would have answered in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from partition.calibration.calibration import Division, sample_of
from partition.calibration.prompt_gate import GATED_SCORE, PromptGate
from partition.calibration.records import Record
from partition.calibration.threshold_search import candidates, smoothed_errors
from partition.errors import CalibrationError

KEPT = 0.98  # of the answers that reach the threshold
_STRENGTH = 3.0
_NUM_FOLDS = 5
_MIN_EACH = 20  # dev records that reach the threshold, and that do not


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTraining:
    """A gate, and what it stops."""

    gate: PromptGate
    division: Division  # the records as they are behind the gate
    stopped: float  # share of the test records that the local model is not asked for
    lost: (
        float  # share of the test records that would have reached dev's threshold, and are stopped
    )


def train_gate(division: Division, *, max_error: float) -> GateTraining:
    """Fit a gate on the dev records, and put all records through it: out of fold on dev, as it is on test.

    Raises:
        CalibrationError: Prompts are missing, or nearly all dev records are sure, or nearly none: there is nothing to save.
    """
    prompts = _prompts(division.dev)
    threshold = _threshold(division.dev, max_error)
    sure = np.array([record.score >= threshold for record in division.dev])
    if min(sure.sum(), (~sure).sum()) < _MIN_EACH:
        raise CalibrationError(
            f"{int(sure.sum())} of {len(sure)} dev records reach the threshold: a gate needs {_MIN_EACH} that do and "
            f"{_MIN_EACH} that do not; calibrate without --train-gate"
        )
    with threadpool_limits(limits=1):
        model = LogisticRegression(C=_STRENGTH, max_iter=1000)
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=0)
        logits = cross_val_predict(model, prompts, sure, cv=folds, method="decision_function")
        model.fit(prompts, sure)
    gate = PromptGate(
        task=division.task,
        weights=tuple(model.coef_[0].astype(np.float32).tolist()),
        intercept=float(model.intercept_[0]),
        least=float(np.quantile(logits[sure], 1.0 - KEPT, method="lower")),
        kept=KEPT,
        num_records=len(sure),
    )
    dev = tuple(
        record if logit >= gate.least else _stopped(record)
        for record, logit in zip(division.dev, logits, strict=True)
    )
    behind = replace(division, dev=dev, test=through(division.test, gate))
    stops = np.array([record.score == GATED_SCORE for record in behind.test])
    reached = np.array([record.score >= threshold for record in division.test])
    return GateTraining(
        gate=gate,
        division=behind,
        stopped=float(stops.mean()) if len(stops) else 0.0,
        lost=float((stops & reached).mean()) if len(stops) else 0.0,
    )


def through(records: Sequence[Record], gate: PromptGate) -> tuple[Record, ...]:
    """The records as they are behind the gate.

    One that is stopped gets a score below all others and counts as wrong: it is never accepted, and a threshold so low that it
    would be is only the harder to prove.

    Raises:
        CalibrationError: A record has no prompt.
    """
    _prompts(records)
    return tuple(record if gate.passes(record.prompt) else _stopped(record) for record in records)


def _stopped(record: Record) -> Record:
    return replace(record, score=GATED_SCORE, loss=1.0, probability=None)


def _prompts(records: Sequence[Record]) -> NDArray[np.float64]:
    for record in records:
        if not record.prompt:
            raise CalibrationError(
                f"line {record.line}, key 'prompt': missing; a gate needs it, write records with `edge-agent run --record ... --record-hidden`"
            )
    return np.array([record.prompt for record in records], dtype=np.float64)


def _threshold(dev: Sequence[Record], max_error: float) -> float:
    """The loosest score at which dev expects the error within the limit; the strictest candidate where there is none."""
    sample = sample_of(dev)
    expected = smoothed_errors(sample)
    grid = candidates(sample)
    if not grid:
        raise CalibrationError("no dev records to train a gate on")
    fitting = [
        threshold
        for threshold in grid
        if expected[sample.accepted(threshold).n] <= max_error * sample.accepted(threshold).n
    ]
    return fitting[-1] if fitting else grid[0]
