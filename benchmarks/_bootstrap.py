"""How far a figure of rows could be another one: 95 % bootstrap intervals over groups of rows that are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.line import Line

Rows = NDArray[np.int_]


def figure_lines(
    case: str,
    figure: Callable[[Rows], float],
    everyone: Rows,
    groups: Rows,
    unit: str,
    runs: int,
    *,
    theirs: float | None = None,
    peer: str | None = None,
) -> Iterator[Line]:
    """Lines of a figure of all rows, and of the ends of its interval."""
    name, _, rest = case.partition(" ")
    yield Line(case=case, ours=figure(everyone), theirs=theirs, peer=peer, unit=unit, runs=1)
    low, high = bootstrap_interval(groups, figure, runs)
    yield Line(case=f"{name}-low {rest}", ours=low, unit=unit, runs=runs)
    yield Line(case=f"{name}-high {rest}", ours=high, unit=unit, runs=runs)


def bootstrap_interval(
    groups: Rows, figure: Callable[[Rows], float], runs: int
) -> tuple[float, float]:
    """95 % bootstrap interval of a figure of rows, whole groups drawn with replacement.

    Args:
        groups: Of each row, ``(n,)``; all different where rows are independent.
        figure: Of the chosen rows.
        runs: Draws.
    """
    rng = np.random.default_rng(3)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    values = [
        figure(
            np.concatenate(
                [members[index] for index in rng.integers(0, len(members), len(members))]
            )
        )
        for _ in range(runs)
    ]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
