"""From raw scores to probabilities that people can read: Platt's curve, or isotonic steps where labels abound.

Monotone, so it changes no ranking and no certificate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from partition.calibration.scorer import Display, Isotonic, Platt

_MIN_ISOTONIC = (
    1000  # labels; with fewer, steps follow the noise unless the logistic curve is plainly wrong
)
_MIN_COMPARED = 200
_NUM_FOLDS = 10


def fit_display(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Display:
    """Fit the curve on scores ``(n,)`` that were not trained on these labels ``(n,)``.

    From 200 labels on, steps are taken where they predict held-out labels better than the curve (ten folds, log-loss).
    """
    if len(scores) >= _MIN_ISOTONIC:
        return fit_isotonic(scores, right)
    if len(scores) >= _MIN_COMPARED and _held_out_loss(
        fit_isotonic, scores, right
    ) < _held_out_loss(fit_platt, scores, right):
        return fit_isotonic(scores, right)
    return fit_platt(scores, right)


def _held_out_loss(
    fit: Callable[[NDArray[np.float64], NDArray[np.bool_]], Display],
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
) -> float:
    """Mean log-loss of labels that the curve was not fitted on; every tenth by rank, so that each fold spans all scores."""
    fold = np.empty(len(scores), dtype=np.int_)
    fold[np.argsort(scores, kind="stable")] = np.arange(len(scores)) % _NUM_FOLDS
    losses = np.empty(len(scores))
    for index in range(_NUM_FOLDS):
        out = fold == index
        display = fit(scores[~out], right[~out])
        stated = np.array([display.probability(score) for score in scores[out].tolist()])
        losses[out] = -np.log(np.clip(np.where(right[out], stated, 1.0 - stated), 1e-6, 1.0))
    return float(losses.mean())


def fit_platt(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Platt:
    """Logistic curve with Platt's targets, (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that it never reaches 0 or 1."""
    num_right = int(right.sum())
    num_wrong = len(right) - num_right
    targets = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    centre = float(scores.mean()) if len(scores) else 0.0
    spread = (float(scores.std()) if len(scores) else 0.0) or 1.0
    inputs = np.column_stack([(scores - centre) / spread, np.ones(len(scores))])
    ridge = 1e-6 * np.eye(2)
    weights = np.zeros(2)
    for _ in range(50):  # Newton steps
        rates = 1.0 / (1.0 + np.exp(-np.clip(inputs @ weights, -30.0, 30.0)))
        curvature = inputs.T @ (inputs * (rates * (1.0 - rates))[:, None]) + ridge
        gradient = inputs.T @ (rates - targets) + ridge @ weights
        weights = np.clip(weights - np.linalg.solve(curvature, gradient), -30.0, 30.0)
    slope = (
        max(float(weights[0]), 0.0) / spread
    )  # a falling curve would contradict "higher is surer"
    return Platt(slope=slope, offset=float(weights[1]) - slope * centre)


def fit_isotonic(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Isotonic:
    """Pool adjacent violators; one knot at each block's mean score, one imagined right and wrong answer in all blocks."""
    values, inverse = np.unique(scores, return_inverse=True)
    counts = np.bincount(inverse).astype(np.float64)
    sums = np.bincount(inverse, weights=right.astype(np.float64))
    blocks: list[tuple[float, float, float]] = []  # sum of right, count, sum of scores
    for value, total, count in zip(values, sums, counts, strict=True):
        block = (float(total), float(count), float(value * count))
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    knots = tuple(position / count for _, count, position in blocks)
    # Laplace's rule keeps the ends from claiming certainty.
    levels = np.maximum.accumulate([(total + 0.5) / (count + 1.0) for total, count, _ in blocks])
    return Isotonic(scores=knots, probabilities=tuple(float(level) for level in levels))
