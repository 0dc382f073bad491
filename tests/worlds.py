"""Worlds in which the true risk of every threshold is known, to try calibration in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partition.calibration.records import Record


@dataclass(frozen=True)
class World:
    """Scores are uniform on [0, 1]; P(right | score) climbs from ``low`` to ``high`` along a logistic curve."""

    low: float
    high: float
    steepness: float
    middle: float

    def p_right(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        curve = 1 / (1 + np.exp(-self.steepness * (scores - self.middle)))
        top = 1 / (1 + np.exp(-self.steepness * (1 - self.middle)))
        return np.asarray(self.low + (self.high - self.low) * curve / top)

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Record, ...]:
        scores = rng.random(n)
        right = rng.random(n) < self.p_right(scores)
        return tuple(
            Record(id=f"r-{index}", score=float(score), loss=float(not is_right))
            for index, (score, is_right) in enumerate(zip(scores, right, strict=True))
        )

    def risk(self, threshold: float) -> float:
        """True error rate of answers at or above a threshold."""
        return float(np.interp(threshold, *self._risks()))

    def oracle_share(self, max_error: float) -> float:
        """Share that could stay local if the truth were known."""
        grid, risks = self._risks()
        passing = grid[risks <= max_error]
        return float(1 - passing[0]) if len(passing) else 0.0

    def _risks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Thresholds ``(n,)`` from 0 to 1, and the error rate at or above each."""
        grid = np.linspace(0, 1, 10_001)
        wrong = (1 - self.p_right(grid))[::-1]
        return grid, (np.cumsum(wrong) / np.arange(1, len(grid) + 1))[::-1]


WORLD_A = World(low=0.25, high=0.99, steepness=9, middle=0.42)
WORLD_B = World(low=0.30, high=0.99, steepness=14, middle=0.45)
WORLD_C = World(low=0.20, high=0.975, steepness=6, middle=0.45)
