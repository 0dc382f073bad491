"""Train a scorer on labelled answers. Needs scikit-learn, which only the ``train`` extra brings.

L2 logistic regression on standardised features, its strength chosen by five-fold log-loss. Everything that is estimated
afterwards on the same records uses out-of-fold scores, because scores of records that were trained on look too good. Where
records hold hidden states, a linear probe on them comes first, and its out-of-fold logit is one more feature: on the right label
where the records tell it, otherwise on right and wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from partition.calibration.calibration import Division
from partition.calibration.display_calibration import fit_display
from partition.calibration.head_training import fit_labels
from partition.calibration.records import Record
from partition.calibration.scorer import RAW, LabelProbe, Probe, Scorer, chosen_place
from partition.errors import CalibrationError

_NUM_FOLDS = 5
_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_PROBE_STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
_MIN_EACH = 10  # right and wrong answers; with fewer there is nothing to learn


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A scorer, and what each of its own training records would have got from a scorer that had not seen it."""

    scorer: Scorer
    out_of_fold: tuple[float, ...]


def train(records: Sequence[Record]) -> Training:
    """Fit a scorer.

    Args:
        records: Of one task, independent of each other, with features.

    Raises:
        CalibrationError: No features, or too few right or wrong answers to learn the difference.
    """
    with threadpool_limits(limits=1):  # matrices this small lose by threads
        return _train(records)


def train_on_dev(division: Division) -> tuple[Scorer, Division]:
    """Train on the dev records, and give every record the score it would get: out-of-fold on dev, final on test.

    Raises:
        CalibrationError: As :func:`train`.
    """
    training = train(division.dev)
    dev = tuple(
        replace(record, score=score)
        for record, score in zip(division.dev, training.out_of_fold, strict=True)
    )
    return training.scorer, replace(
        division, dev=dev, test=rescored(division.test, training.scorer)
    )


def rescored(records: Sequence[Record], scorer: Scorer) -> tuple[Record, ...]:
    """The same records with the scorer's raw logit as score.

    Raises:
        CalibrationError: A record has no features.
    """
    for record in records:
        if not record.features and not record.hidden:
            raise CalibrationError(
                f"line {record.line}, key 'features': missing; a scorer needs them, write records with `edge-agent run --record`"
            )
    return tuple(
        replace(
            record,
            score=scorer.score(scorer.completed(record.features, record.hidden)),
            probability=None,
        )
        for record in records
    )


def _train(records: Sequence[Record]) -> Training:
    right = np.array([record.loss < 0.5 for record in records], dtype=np.bool_)
    if min(right.sum(), (~right).sum()) < _MIN_EACH:
        raise CalibrationError(
            f"{int(right.sum())} right and {int((~right).sum())} wrong dev records: a scorer needs {_MIN_EACH} of each; "
            "label more, or calibrate without --train-scorer"
        )
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=0)
    splits = [
        (np.asarray(seen), np.asarray(held_out))
        for seen, held_out in folds.split(np.zeros(len(records)), right)
    ]
    probe, label_probe, records = _with_probe(records, right, splits)
    names = sorted({name for record in records for name, _ in record.features})
    if not names:
        raise CalibrationError(
            "the records have no `features`; write them with `edge-agent run --record`, or calibrate without --train-scorer"
        )
    values = _matrix(records, names)

    def out_of_fold(strength: float) -> NDArray[np.float64]:
        scores = np.empty(len(records))
        for seen, held_out in splits:
            fold = _fit(values[seen], right[seen], names, strength)
            scores[held_out] = _scores(fold, values[held_out])
        return scores

    strength, scores = _best(_STRENGTHS, out_of_fold, right)
    scorer = replace(
        _fit(values, right, names, strength),
        task=records[0].task,
        display=fit_display(scores, right),
        probe=probe,
        label_probe=label_probe,
        num_records=len(records),
    )
    return Training(scorer=scorer, out_of_fold=tuple(float(score) for score in scores))


_Splits = Sequence[tuple[NDArray[np.int_], NDArray[np.int_]]]


def _with_probe(
    records: Sequence[Record], right: NDArray[np.bool_], splits: _Splits
) -> tuple[Probe | None, LabelProbe | None, Sequence[Record]]:
    """Fit a probe if all records have a hidden state, and give each record the out-of-fold logit as a feature."""
    widths = {len(record.hidden) for record in records}
    if len(widths) != 1 or 0 in widths:
        return None, None, records
    hidden = np.array([record.hidden for record in records], dtype=np.float64)
    truth = np.array([record.truth for record in records])
    chosen = np.array([chosen_place(record.features) for record in records])
    if (truth != "").all() and (chosen >= 0).all() and len(np.unique(truth)) > 1:
        label_probe, logits = _label_probe(
            hidden, truth, _places(truth, chosen, right), chosen, splits, right
        )
        return None, label_probe, _with_feature(records, logits)

    def out_of_fold(strength: float) -> NDArray[np.float64]:
        logits = np.empty(len(records))
        for seen, held_out in splits:
            fold = _fit_probe(hidden[seen], right[seen], strength)
            logits[held_out] = hidden[held_out] @ np.array(fold.coefficients) + fold.intercept
        return logits

    strength, logits = _best(_PROBE_STRENGTHS, out_of_fold, right)
    return _fit_probe(hidden, right, strength), None, _with_feature(records, logits)


def _with_feature(records: Sequence[Record], logits: NDArray[np.float64]) -> list[Record]:
    return [
        replace(record, features=(*record.features, ("probe", float(logit))))
        if np.isfinite(logit)
        else record
        for record, logit in zip(records, logits, strict=True)
    ]


def _places(
    truth: NDArray[np.str_], chosen: NDArray[np.int_], right: NDArray[np.bool_]
) -> dict[str, int]:
    """Which ``label_i`` each right label is: told by the answers that were right, and of two labels by the other one."""
    labels = [str(label) for label in np.unique(truth)]
    places = dict.fromkeys(labels, -1)
    places |= dict(zip(truth[right].tolist(), chosen[right].tolist(), strict=True))
    known = max(places.values())
    if len(labels) == 2 and min(places.values()) == -1 and known in (0, 1):
        places = {label: place if place >= 0 else 1 - known for label, place in places.items()}
    return places


def _label_probe(
    hidden: NDArray[np.float64],
    truth: NDArray[np.str_],
    places: dict[str, int],
    chosen: NDArray[np.int_],
    splits: _Splits,
    right: NDArray[np.bool_],
) -> tuple[LabelProbe, NDArray[np.float64]]:
    """A probe on the right label, and what it says of each chosen label out of fold; NaN where it does not know the label."""

    def out_of_fold(strength: float) -> NDArray[np.float64]:
        logits = np.empty(len(truth))
        for seen, held_out in splits:
            fold = _fit_label_probe(hidden[seen], truth[seen], places, strength)
            for row in held_out:
                logit = fold.logit(tuple(hidden[row]), int(chosen[row]))
                logits[row] = np.nan if logit is None else logit
        return logits

    def known_or_even(strength: float) -> NDArray[np.float64]:
        return np.nan_to_num(out_of_fold(strength))

    strength, _ = _best(_PROBE_STRENGTHS, known_or_even, right)
    return _fit_label_probe(hidden, truth, places, strength), out_of_fold(strength)


def _fit_label_probe(
    hidden: NDArray[np.float64], truth: NDArray[np.str_], places: dict[str, int], strength: float
) -> LabelProbe:
    labels, weights, intercepts = fit_labels(hidden, truth, strength)
    return LabelProbe(
        weights=tuple(tuple(row) for row in weights.tolist()),
        intercepts=tuple(intercepts.tolist()),
        places=tuple(places[label] for label in labels),
    )


def _best(
    strengths: Sequence[float],
    out_of_fold: Callable[[float], NDArray[np.float64]],
    right: NDArray[np.bool_],
) -> tuple[float, NDArray[np.float64]]:
    """The strength with the lowest out-of-fold log-loss, and its logits."""
    tried = [(strength, out_of_fold(strength)) for strength in strengths]

    def log_loss(logits: NDArray[np.float64]) -> float:
        return float(np.mean(np.logaddexp(0.0, np.where(right, -logits, logits))))

    return min(tried, key=lambda pair: log_loss(pair[1]))


def _fit_probe(hidden: NDArray[np.float64], right: NDArray[np.bool_], strength: float) -> Probe:
    mean, deviation = hidden.mean(axis=0), hidden.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit((hidden - mean) / scale, right)
    coefficients = model.coef_[0] / scale
    return Probe(
        coefficients=tuple(map(float, coefficients)),
        intercept=float(model.intercept_[0] - mean @ coefficients),
    )


def _matrix(records: Sequence[Record], names: Sequence[str]) -> NDArray[np.float64]:
    """Features ``(records, names)``, NaN where missing."""
    rows = [dict(record.features) for record in records]
    return np.array([[row.get(name, math.nan) for name in names] for row in rows])


def _fit(
    values: NDArray[np.float64], right: NDArray[np.bool_], names: Sequence[str], strength: float
) -> Scorer:
    missing = np.isnan(values)
    counts = np.maximum((~missing).sum(axis=0), 1)
    mean = np.where(missing, 0.0, values).sum(axis=0) / counts
    centred = np.where(missing, 0.0, values - mean)
    deviation = np.sqrt((centred**2).sum(axis=0) / counts)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    design = np.hstack([centred / scale, missing.astype(np.float64)])
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(design, right)
    coefficients = model.coef_[0]
    width = len(names)
    return Scorer(
        task="",
        names=tuple(names),
        mean=tuple(map(float, mean)),
        scale=tuple(map(float, scale)),
        coefficients=tuple(map(float, coefficients[:width])),
        missing_coefficients=tuple(map(float, coefficients[width:])),
        intercept=float(model.intercept_[0]),
        display=RAW,
    )


def _scores(scorer: Scorer, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What :meth:`Scorer.score` gives for each row of :func:`_matrix`, ``(rows,)``."""
    missing = np.isnan(values)
    standard = np.where(missing, 0.0, (values - np.array(scorer.mean)) / np.array(scorer.scale))
    logits = standard @ np.array(scorer.coefficients)
    logits += missing @ np.array(scorer.missing_coefficients) + scorer.intercept
    return np.asarray(logits, dtype=np.float64)
