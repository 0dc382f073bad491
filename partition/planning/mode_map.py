"""Where each mode wins: the planner's choice over a grid of round trips and uplinks, and each mode's figures along a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from partition.planning.cost import Mode, Prediction, Scenario
from partition.planning.planner import Constraints, Plan, Weights, make_plan

ROUND_TRIPS_S = tuple(float(value) for value in np.geomspace(1e-3, 1.0, 49))
UPLINKS_BYTES_PER_S = tuple(float(value) for value in np.geomspace(12_500, 125_000_000, 41))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeMap:
    """The chosen mode of every cell; rows are uplinks, columns round trips, both ascending. None: nothing is allowed."""

    round_trips_s: tuple[float, ...]
    uplinks_bytes_per_s: tuple[float, ...]
    chosen: tuple[tuple[Mode | None, ...], ...]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes that win somewhere, in the order of :class:`Mode`."""
        found = {mode for row in self.chosen for mode in row}
        return tuple(mode for mode in Mode if mode in found)


def map_modes(
    scenario: Scenario,
    constraints: Constraints,
    weights: Weights,
    *,
    round_trips_s: Sequence[float] = ROUND_TRIPS_S,
    uplinks_bytes_per_s: Sequence[float] = UPLINKS_BYTES_PER_S,
) -> ModeMap:
    """Plan for every link of the grid; the downlink stays the scenario's, and is at least the uplink.

    Raises:
        ValueError: The scenario has no link.
    """
    rows = []
    for uplink in uplinks_bytes_per_s:
        plans = [
            plan_over(scenario, constraints, weights, round_trip_s=trip, up_bytes_per_s=uplink)
            for trip in round_trips_s
        ]
        rows.append(tuple(None if p.chosen is None else p.chosen.mode for p in plans))
    return ModeMap(
        round_trips_s=tuple(round_trips_s),
        uplinks_bytes_per_s=tuple(uplinks_bytes_per_s),
        chosen=tuple(rows),
    )


def plan_over(
    scenario: Scenario,
    constraints: Constraints,
    weights: Weights,
    *,
    round_trip_s: float,
    up_bytes_per_s: float | None = None,
) -> Plan:
    """Plan the scenario over another link.

    Raises:
        ValueError: The scenario has no link.
    """
    link = scenario.link
    if link is None:
        raise ValueError("a scenario without a link has no other one")
    uplink = link.up_bytes_per_s if up_bytes_per_s is None else up_bytes_per_s
    changed = replace(
        link,
        round_trip_s=round_trip_s,
        round_trip_p95_s=round_trip_s,
        up_bytes_per_s=uplink,
        down_bytes_per_s=max(link.down_bytes_per_s, uplink),
    )
    return make_plan(replace(scenario, link=changed), constraints, weights)


def best_of_mode(plan: Plan, mode: Mode) -> Prediction | None:
    """The cheapest prediction of a mode, allowed or not: of a split the best cut."""
    found = [option for option in plan.options if option.prediction.mode is mode]
    return min(found, key=lambda option: option.cost).prediction if found else None
