"""The plan while the agent runs: made again from what its own calls tell of link and cloud, and from price and battery.

The agent asks for the mode when a request begins, and never in the middle of one. A new look is taken once a window, when
something was observed or somebody asks; :mod:`partition.planning.replanning` decides whether it changes anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from partition.planning.conditions import Conditions
from partition.planning.cost import Mode, Prediction, Scenario
from partition.planning.link import LinkState
from partition.planning.planner import Constraints, Plan, Weights, make_plan
from partition.planning.replanning import Hysteresis, Replanner


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """What the operator sees."""

    mode: str
    plan: Plan
    link: LinkState
    num_changes: int


class LivePlan:
    """Keeps one task's plan up to date. Thread-safe.

    Args:
        scenario: As profiled; must have a cloud and a link, or the plan never changes.
        constraints: Of the task.
        weights: The operator's.
        clock: Monotonic seconds.
        hysteresis: How hard it is to change the plan.
        conditions: Shared with the plans of other tasks; None: its own.
    """

    def __init__(
        self,
        scenario: Scenario,
        constraints: Constraints,
        weights: Weights,
        *,
        clock: Callable[[], float],
        hysteresis: Hysteresis | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self.conditions = conditions or Conditions(scenario.link)
        self._lock = threading.Lock()
        self._scenario = scenario
        self._constraints = constraints
        self._weights = weights
        self._clock = clock
        self._hysteresis = hysteresis or Hysteresis()
        self._was_reachable = True
        self._looked_at = float("-inf")
        self._plan = make_plan(*self.conditions.now(scenario, constraints, weights))
        self._replanner = Replanner(
            _key(self._plan.chosen), now_s=clock(), hysteresis=self._hysteresis
        )

    @property
    def mode(self) -> Mode | None:
        """The mode for a request that begins now; None when nothing is allowed."""
        return None if self.prediction is None else self.prediction.mode

    @property
    def prediction(self) -> Prediction | None:
        """The mode for a request that begins now, with its figures."""
        with self._lock:
            self._look()
            return next(
                (
                    option.prediction
                    for option in self._plan.options
                    if option.prediction.name == self._replanner.mode
                ),
                None,
            )

    @property
    def state(self) -> LiveState:
        """Everything, for people."""
        with self._lock:
            self._look()
            return LiveState(
                mode=self._replanner.mode,
                plan=self._plan,
                link=self.conditions.link,
                num_changes=self._replanner.num_changes,
            )

    def look(self) -> str | None:
        """Look again after something was observed, so that the windows pass while a request runs.

        Returns:
            The new mode's name when it has changed, else None.
        """
        with self._lock:
            before = self._replanner.mode
            self._look()
            return self._replanner.mode if self._replanner.mode != before else None

    def _look(self) -> None:
        """Predict again, at most once a window; at once when the cloud has gone or come back."""
        now, is_reachable = self._clock(), self.conditions.is_reachable
        is_due = now - self._looked_at >= self._hysteresis.window_s
        if not is_due and is_reachable is self._was_reachable:
            return
        self._looked_at, self._was_reachable = now, is_reachable
        scenario, constraints, weights = self.conditions.now(
            self._scenario, self._constraints, self._weights
        )
        self._plan = make_plan(scenario, constraints, weights)
        allowed = [option for option in self._plan.options if option.is_allowed]
        # What all modes have in common would make every gain look small.
        common = min((weights.standing_cost(o.prediction) for o in allowed), default=0.0)
        costs = {option.prediction.name: option.cost - common for option in allowed}
        self._replanner.consider(costs, now_s=now)


def _key(chosen: Prediction | None) -> str:
    return "" if chosen is None else chosen.name
