"""Train a label head on labelled answers that were recorded with hidden states. Needs scikit-learn (``train`` extra).

Multinomial logistic regression on standardised hidden states, its strength chosen by five-fold log-loss over whole clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from partition.calibration.calibration import divide
from partition.calibration.label_head import LabelHead
from partition.calibration.records import Record
from partition.errors import CalibrationError

_NUM_FOLDS = 5
_STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_MIN_EACH = 10  # records of each label; with fewer there is nothing to learn

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTraining:
    """A head, and how it did on records it had not seen, beside the model's own choice."""

    head: LabelHead
    right: float  # share, out of fold
    right_before: float  # share of the recorded answers
    strength: float  # inverse of the L2 penalty


def train_head(
    records: Sequence[Record], *, percent: int = 100, strength: float | None = None
) -> HeadTraining:
    """Fit a head.

    Args:
        records: Of one task and setup, with ``hidden`` and ``truth``.
        percent: Part of the clusters to learn from, those with the smallest digests; the others are left for calibration.
        strength: Inverse of the L2 penalty, if it is known; None: tried out.

    Raises:
        CalibrationError: Hidden states or true labels are missing, or there are too few of a label.
    """
    chosen = divide([_unsplit(record) for record in records], dev_percent=percent).dev
    hidden, truth = _arrays(chosen)
    labels, counts = np.unique(truth, return_counts=True)
    if len(labels) < 2 or counts.min() < _MIN_EACH:
        rarest = int(counts.min()) if len(counts) else 0
        raise CalibrationError(
            f"{len(labels)} labels, the rarest with {rarest} records that differ in more than digits: a head needs two labels and {_MIN_EACH} of "
            "each; label more"
        )
    with threadpool_limits(limits=1):  # matrices this small lose by threads
        strengths = _STRENGTHS if strength is None else (strength,)
        strength, predicted = _best_strength(hidden, truth, strengths)
        _, weights, intercepts = fit_labels(hidden, truth, strength)
    setup = chosen[0].setup
    if not setup:
        raise CalibrationError(
            "the records do not say which setup answered; write them with `edge-agent run --record`"
        )
    return HeadTraining(
        head=LabelHead(
            task=chosen[0].task,
            labels=tuple(map(str, labels)),
            setup=setup,
            weights=tuple(tuple(row) for row in weights.astype(np.float32).tolist()),
            intercepts=tuple(intercepts.tolist()),
            num_records=len(chosen),
            learned_from=frozenset(record.cluster_key for record in chosen),
        ),
        right=float(np.mean(predicted == truth)),
        right_before=float(np.mean([record.is_right for record in chosen])),
        strength=strength,
    )


def _unsplit(record: Record) -> Record:
    return replace(record, split=None)


def _arrays(records: Sequence[Record]) -> tuple[Floats, NDArray[np.str_]]:
    for record in records:
        if not record.hidden or not record.truth:
            raise CalibrationError(
                f"line {record.line}: no `hidden` or no `truth`; write the records of a classify task with "
                "`edge-agent run --record ... --record-hidden`"
            )
    if len({len(record.hidden) for record in records}) > 1:
        raise CalibrationError("hidden states of different widths; record one model at a time")
    hidden = np.array([record.hidden for record in records], dtype=np.float64)
    return hidden, np.array([record.truth for record in records])


def _best_strength(
    hidden: Floats, truth: NDArray[np.str_], strengths: Sequence[float]
) -> tuple[float, NDArray[np.str_]]:
    """The strength with the lowest out-of-fold log-loss, and what it predicts out of fold."""
    labels = np.unique(truth)
    column = np.searchsorted(labels, truth)
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=0)
    splits = list(folds.split(hidden, truth))
    best: tuple[float, float, NDArray[np.str_]] | None = None
    for strength in strengths:
        logs = np.empty((len(truth), len(labels)))
        for seen, held_out in splits:
            _, weights, intercepts = fit_labels(hidden[seen], truth[seen], strength)
            logits = hidden[held_out] @ weights.T + intercepts
            logs[held_out] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        loss = -float(np.mean(logs[np.arange(len(truth)), column]))
        if best is None or loss < best[0]:
            best = (loss, strength, labels[logs.argmax(axis=1)])
    assert best is not None
    return best[1], best[2]


def fit_labels(
    hidden: Floats, truth: NDArray[np.str_], strength: float
) -> tuple[tuple[str, ...], Floats, Floats]:
    """Labels, weights ``(labels, width)`` and intercepts ``(labels,)``, for hidden states as they are, not standardised."""
    mean, deviation = hidden.mean(axis=0), hidden.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit((hidden - mean) / scale, truth)
    weights, intercepts = model.coef_ / scale, model.intercept_
    if len(weights) == 1:  # two labels: scikit-learn keeps the second against the first only
        weights = np.vstack([np.zeros_like(weights), weights])
        intercepts = np.concatenate([[0.0], intercepts])
    return tuple(map(str, model.classes_)), weights, intercepts - weights @ mean
