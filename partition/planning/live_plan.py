"""The plan while the agent runs: made again from what its own calls tell of link and cloud, and from price and battery.

The agent reports each exchange, asks for the mode when a request begins, and never in the middle of one. A new look is taken
once a window; :mod:`partition.planning.replanning` decides whether it changes anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from partition.planning.cost import Mode, Prediction, Scenario
from partition.planning.link import WEIGHT, LinkEstimator, LinkState
from partition.planning.planner import Constraints, Plan, Weights, make_plan
from partition.planning.profile import Link, Prices
from partition.planning.replanning import Hysteresis, Replanner

LOWEST_BATTERY = 0.2  # below which energy weighs ten times as much
BATTERY_FACTOR = 10.0


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
    """

    def __init__(
        self,
        scenario: Scenario,
        constraints: Constraints,
        weights: Weights,
        *,
        clock: Callable[[], float],
        hysteresis: Hysteresis | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._scenario = scenario
        self._constraints = constraints
        self._weights = weights
        self._clock = clock
        self._hysteresis = hysteresis or Hysteresis()
        self._link = None if scenario.link is None else LinkEstimator(_state(scenario.link))
        self._slowdown = 1.0  # of the cloud's compute against its profile
        self._battery = 1.0
        self._is_reachable = True
        self._looked_at = float("-inf")
        self._plan = make_plan(scenario, constraints, weights)
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
            link = self._link.state if self._link else _state(_NO_LINK)
            return LiveState(
                mode=self._replanner.mode,
                plan=self._plan,
                link=link,
                num_changes=self._replanner.num_changes,
            )

    def observe_exchange(
        self, *, bytes_up: int, bytes_down: int, elapsed_s: float, server_s: float
    ) -> None:
        """Learn from one call or frame; see :meth:`partition.planning.link.LinkEstimator.observe`."""
        with self._lock:
            self._is_reachable = True
            if self._link is not None:
                self._link.observe(
                    bytes_up=bytes_up,
                    bytes_down=bytes_down,
                    elapsed_s=elapsed_s,
                    server_s=server_s,
                )

    def observe_cloud(self, *, predicted_s: float, measured_s: float) -> None:
        """Learn how busy the cloud is, from the time it says a call took, queueing included."""
        if predicted_s <= 0 or measured_s <= 0:
            return
        with self._lock:
            self._slowdown += WEIGHT * (measured_s / predicted_s - self._slowdown)

    def observe_reachable(self, is_reachable: bool) -> None:
        """Hear from the circuit breaker; an unreachable cloud changes the plan at once."""
        with self._lock:
            if is_reachable is not self._is_reachable:
                self._is_reachable = is_reachable
                self._looked_at = float("-inf")

    def set_prices(self, prices: Prices) -> None:
        """Take a new price list."""
        with self._lock:
            self._scenario = replace(self._scenario, prices=prices)

    def set_battery(self, charge: float) -> None:
        """Take the battery's charge, in [0, 1]; a device on mains says 1."""
        with self._lock:
            self._battery = charge

    def _look(self) -> None:
        """Predict again, at most once a window."""
        now = self._clock()
        if now - self._looked_at < self._hysteresis.window_s:
            return
        self._looked_at = now
        self._plan = make_plan(self._now(), self._constraints_now(), self._weights_now())
        costs = {o.prediction.name: o.cost for o in self._plan.options if o.is_allowed}
        self._replanner.consider(costs, now_s=now)

    def _now(self) -> Scenario:
        scenario = self._scenario
        if self._link is not None:
            scenario = replace(scenario, link=_link(self._link.state))
        if scenario.cloud is not None and self._slowdown != 1.0:
            extra = (self._slowdown - 1) * scenario.cloud.decode(scenario.workload.mean_context)
            queue_s = max(0.0, scenario.cloud.queue_s + extra)
            scenario = replace(scenario, cloud=replace(scenario.cloud, queue_s=queue_s))
        return scenario

    def _constraints_now(self) -> Constraints:
        if self._is_reachable:
            return self._constraints
        return replace(self._constraints, may_leave_device=False)

    def _weights_now(self) -> Weights:
        if self._battery >= LOWEST_BATTERY:
            return self._weights
        return replace(self._weights, per_joule=self._weights.per_joule * BATTERY_FACTOR)


_NO_LINK = Link(round_trip_s=0.0, up_bytes_per_s=1.0, down_bytes_per_s=1.0)


def _state(link: Link) -> LinkState:
    return LinkState(
        round_trip_s=link.round_trip_s,
        round_trip_p95_s=link.round_trip_p95_s or link.round_trip_s,
        jitter_s=link.jitter_s,
        up_bytes_per_s=link.up_bytes_per_s,
        down_bytes_per_s=link.down_bytes_per_s,
    )


def _link(state: LinkState) -> Link:
    return Link(
        round_trip_s=state.round_trip_s,
        round_trip_p95_s=state.round_trip_p95_s,
        jitter_s=state.jitter_s,
        up_bytes_per_s=state.up_bytes_per_s,
        down_bytes_per_s=state.down_bytes_per_s,
    )


def _key(chosen: Prediction | None) -> str:
    return "" if chosen is None else chosen.name
