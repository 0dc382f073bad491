"""A hint that requests have changed: the spread of their scores against the one at calibration.

A population stability index above 0.2 is the usual sign. It is a hint only: errors may rise without it, and it may rise
without errors. Audits decide.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

WARNING_PSI = 0.2
_NUM_BINS = 10
_MIN_SCORES = 200  # with fewer, chance alone reaches 0.2 now and then
_WINDOW = 2000  # scores; older ones fade


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDrift:
    """Scores since calibration, in the bins of calibration. Immutable."""

    edges: tuple[float, ...]  # inner bounds of the bins, ascending; see `bins_of`
    shares: tuple[float, ...]  # of the calibration scores, one more than edges
    counts: tuple[float, ...] = ()  # of later scores, faded

    def after(self, score: float) -> Self:
        """State after one more request of the task, wherever it was answered."""
        counts = list(self.counts or (0.0,) * len(self.shares))
        if sum(counts) >= _WINDOW:
            counts = [count * (1.0 - 1.0 / _WINDOW) for count in counts]
        counts[bisect_right(self.edges, score)] += 1.0
        return replace(self, counts=tuple(counts))

    @property
    def psi(self) -> float | None:
        """Population stability index; None before there are 200 scores."""
        total = sum(self.counts)
        if total < _MIN_SCORES:
            return None
        size = len(self.shares)
        index = 0.0
        for old, count in zip(self.shares, self.counts, strict=True):
            new = (count + 0.5) / (total + 0.5 * size)  # an empty bin would be infinite
            index += (new - old) * math.log(new / old)
        return index

    @property
    def warns(self) -> bool:
        """Whether the spread has changed enough to be said."""
        return self.psi is not None and self.psi > WARNING_PSI


def bins_of(scores: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds of ten bins of equal mass, fewer where scores tie, and the share of scores in each (never quite 0).

    Returns:
        Inner bounds ``(bins - 1,)``, and shares ``(bins,)``.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return (), (1.0,)
    edges = np.unique(np.quantile(values, np.arange(1, _NUM_BINS) / _NUM_BINS, method="higher"))
    edges = edges[edges > values.min()]
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    shares = (counts + 0.5) / (len(values) + 0.5 * len(counts))
    return tuple(map(float, edges)), tuple(map(float, shares))
