"""What changes while an agent runs: the link, how busy the cloud is, how often drafts stand, prices, the battery.

Learnt from the agent's own calls, or told by its owner. One object for all tasks of a device: a plan made later begins with
what the others have learnt.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

from partition.extend.draft_length import geometric
from partition.planning.cost import FIRST_GUESS_ACCEPTANCE, Scenario
from partition.planning.link import Average, LinkEstimator, LinkState
from partition.planning.planner import Constraints, Weights
from partition.planning.profile import Link, Prices

LOWEST_BATTERY = 0.2  # below which energy weighs ten times as much
BATTERY_FACTOR = 10.0
NUM_DRAFTED_ANSWERS = 64  # whose drafts make up the acceptance
GUESS_WEIGHT = 8  # judged drafts that the first guess of the acceptance weighs as much as


class Conditions:
    """Keeps what is known now. Thread-safe.

    Args:
        link: As profiled; None: there is no cloud.
    """

    def __init__(self, link: Link | None) -> None:
        self._lock = threading.Lock()
        self._link = None if link is None else LinkEstimator(_state(link))
        self._slowdown = Average()  # of the cloud's compute against its profile
        self._drafting = Average()  # seconds of a draft against a decoded token's
        self._drafts: deque[tuple[int, int]] = deque(maxlen=NUM_DRAFTED_ANSWERS)
        self._prices: Prices | None = None
        self._battery = 1.0
        self._is_reachable = True

    @property
    def link(self) -> LinkState:
        """The link as it is believed to be now; all zero without one."""
        with self._lock:
            return _state(_NO_LINK) if self._link is None else self._link.state

    @property
    def is_reachable(self) -> bool:
        """Whether the cloud can be asked."""
        return self._is_reachable

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
            if self._slowdown.value is None:
                self._slowdown.add(1.0)  # the profile counts as the first sample
            self._slowdown.add(measured_s / predicted_s)

    def observe_drafts(self, *, num_judged: int, num_accepted: int) -> None:
        """Learn how often drafts stand, from one answer; those after a refusal in their round were not judged."""
        if num_judged > 0:
            with self._lock:
                self._drafts.append((num_judged, num_accepted))

    def observe_drafting(self, *, predicted_s: float, measured_s: float) -> None:
        """Learn what a drafted token takes: less than a decoded one where text repeats itself, more on a busy device."""
        if predicted_s > 0 and measured_s > 0:
            with self._lock:
                self._drafting.add(measured_s / predicted_s)

    def observe_reachable(self, is_reachable: bool) -> None:
        """Hear from the circuit breaker."""
        with self._lock:
            self._is_reachable = is_reachable

    def set_prices(self, prices: Prices) -> None:
        """Take a new price list."""
        with self._lock:
            self._prices = prices

    def set_battery(self, charge: float) -> None:
        """Take the battery's charge, in [0, 1]; a device on mains says 1."""
        with self._lock:
            self._battery = charge

    def now(
        self, scenario: Scenario, constraints: Constraints, weights: Weights
    ) -> tuple[Scenario, Constraints, Weights]:
        """Bring what was profiled and wished for up to date."""
        with self._lock:
            return self._scenario(scenario), self._constraints(constraints), self._weights(weights)

    def _scenario(self, scenario: Scenario) -> Scenario:
        if self._link is not None:
            scenario = replace(scenario, link=Link.of(self._link.state))
        slowdown = self._slowdown.value
        if scenario.cloud is not None and slowdown is not None:
            extra = (slowdown - 1) * scenario.cloud.decode(scenario.workload.mean_context)
            queue_s = max(0.0, scenario.cloud.queue_s + extra)
            scenario = replace(scenario, cloud=replace(scenario.cloud, queue_s=queue_s))
        if self._drafts:
            judged = sum(number for number, _ in self._drafts) + GUESS_WEIGHT
            stood = sum(number for _, number in self._drafts)
            acceptance = (stood + FIRST_GUESS_ACCEPTANCE * GUESS_WEIGHT) / judged
            scenario = replace(scenario, survival=geometric(acceptance))
        if self._drafting.value is not None:
            scenario = replace(scenario, drafting=self._drafting.value)
        if self._prices is not None:
            scenario = replace(scenario, prices=self._prices)
        return scenario

    def _constraints(self, constraints: Constraints) -> Constraints:
        return constraints if self._is_reachable else replace(constraints, may_leave_device=False)

    def _weights(self, weights: Weights) -> Weights:
        if self._battery >= LOWEST_BATTERY:
            return weights
        return replace(weights, per_joule=weights.per_joule * BATTERY_FACTOR)


_NO_LINK = Link(round_trip_s=0.0, up_bytes_per_s=1.0, down_bytes_per_s=1.0)


def _state(link: Link) -> LinkState:
    return LinkState(
        round_trip_s=link.round_trip_s,
        round_trip_p95_s=link.round_trip_p95_s or link.round_trip_s,
        jitter_s=link.jitter_s,
        up_bytes_per_s=link.up_bytes_per_s,
        down_bytes_per_s=link.down_bytes_per_s,
    )
