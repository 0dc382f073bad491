"""The live plan of every task of one device: how a request that leaves is answered, learnt from what the agent does anyway.

All tasks share what is known of link, cloud, drafts, price and battery (:mod:`partition.planning.conditions`); what differs is
what each one's policy allows. The router has decided already that a request leaves: the plan chooses between the cloud alone,
VERIFY and SPLIT.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError
from partition.extend.activations import Codec
from partition.extend.draft_length import MAX_DRAFT
from partition.planning.conditions import Conditions
from partition.planning.cost import Mode, Scenario, Workload
from partition.planning.live_plan import LivePlan, LiveState
from partition.planning.planner import Constraints, Weights, make_plan
from partition.planning.profile import DeviceProfile

if TYPE_CHECKING:
    from edge_agent.cloud.cloud import CloudAnswer
    from edge_agent.extend.exchange import Exchanged
    from edge_agent.extend.verify import VerifyResult
    from partition.planning.profile import Prices
    from partition.task import Task

logger = logging.getLogger(__name__)

TYPICAL = Workload(prompt_tokens=350, output_tokens=64)  # a report and its impression
CHARGE_EVERY_S = 30.0  # a battery is read so often


def scenario_of(profile: DeviceProfile, *, codec: Codec = Codec.INT8) -> Scenario:
    """What a device plans with.

    Raises:
        ConfigError: The profile says nothing of cloud or link.
    """
    if profile.cloud is None or profile.link is None:
        raise ConfigError(
            "the profile has no cloud or no link; make it again with `edge-agent profile`"
        )
    return Scenario(
        edge=profile.edge,
        edge_layers=profile.edge_layers,
        cloud=profile.cloud,
        link=profile.link,
        power=profile.power,
        prices=profile.prices,
        workload=TYPICAL,
        codec=codec,
    )


def best_cut(profile: DeviceProfile, *, codec: Codec) -> int:
    """How many layers of the cloud's model a device should hold, if it has to hold some.

    Raises:
        ConfigError: The profile cannot say, or memory forbids every cut.
    """
    rules = Constraints(
        allow_split=True,
        set_up=frozenset({Mode.SPLIT}),
        memory_bytes=profile.memory_bytes or None,
    )
    chosen = make_plan(scenario_of(profile, codec=codec), rules).chosen
    if chosen is None or chosen.split is None:
        raise ConfigError(
            "the profile names no cut; set split.layers, or make it again with `edge-agent profile --split`"
        )
    return chosen.split


class TaskPlans:
    """Hears of every call, and says how the next request goes. Thread-safe.

    Args:
        scenario: As profiled.
        set_up: What this device can do besides leaving it to the cloud.
        layers: Of the cloud's model on this device; None: none.
        clock: Monotonic seconds.
        read_charge: Reads the battery, in [0, 1].
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        set_up: frozenset[Mode],
        layers: int | None = None,
        clock: Callable[[], float],
        read_charge: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._scenario = scenario
        self._set_up = set_up | {Mode.CLOUD}
        self._layers = layers
        self._clock = clock
        self._read_charge = read_charge
        self._charge_at = float("-inf")
        self._lock = threading.Lock()
        self._plans: dict[str, LivePlan] = {}
        self._conditions = Conditions(scenario.link)

    def mode_of(self, task: Task) -> Mode | None:
        """How a request of this task that begins now goes; None: no mode is allowed."""
        self._look_at_battery()
        return self._plan_of(task).mode

    def state_of(self, task: Task) -> LiveState:
        """Everything about one task's plan, for people."""
        return self._plan_of(task).state

    # --- what is told of: an observer of the cloud client

    def called(
        self, *, bytes_up: int, bytes_down: int, elapsed_s: float, server_s: float = 0.0
    ) -> None:
        """A small call and its first reply."""
        self._conditions.observe_exchange(
            bytes_up=bytes_up, bytes_down=bytes_down, elapsed_s=elapsed_s, server_s=server_s
        )
        self._look()

    def answered(self, answer: CloudAnswer) -> None:
        """A whole answer of the cloud alone."""
        cloud, usage = self._scenario.cloud, answer.usage
        if cloud is None or answer.replayed or usage.output_tokens < 1:
            return
        fresh = max(1, usage.input_tokens - usage.cached_tokens)
        context = usage.input_tokens + usage.output_tokens / 2
        predicted_s = cloud.prefill(fresh) + (usage.output_tokens - 1) * cloud.decode(context)
        self._conditions.observe_cloud(
            predicted_s=predicted_s, measured_s=(answer.compute_ms + answer.queue_ms) / 1000
        )
        self._look()

    def exchanged(self, exchanged: Exchanged) -> None:
        """A frame of VERIFY or SPLIT and its reply."""
        self._conditions.observe_exchange(
            bytes_up=exchanged.sent_bytes,
            bytes_down=0,
            elapsed_s=exchanged.elapsed_s,
            server_s=exchanged.server_s,
        )
        self._look()

    def verified(self, exchanged: Exchanged) -> None:
        """A frame of VERIFY: tells how busy the cloud is besides."""
        cloud, positions = self._scenario.cloud, exchanged.num_positions
        if cloud is not None:
            base_s, slope_s = cloud.verification(self._scenario.workload.mean_context)
            is_round = positions <= MAX_DRAFT + 1
            predicted_s = base_s + slope_s * (positions - 1)
            self._conditions.observe_cloud(
                predicted_s=predicted_s if is_round else cloud.prefill(positions),
                measured_s=exchanged.server_s,
            )
        self.exchanged(exchanged)

    def drafted(self, result: VerifyResult) -> None:
        """A whole answer by VERIFY."""
        self._conditions.observe_drafts(
            num_judged=result.num_judged, num_accepted=result.num_accepted
        )
        if result.draft_s is not None:
            context = self._scenario.workload.mean_context
            self._conditions.observe_drafting(
                predicted_s=self._scenario.edge.decode(context), measured_s=result.draft_s
            )

    # --- what the owner says

    def set_prices(self, prices: Prices) -> None:
        """Take a new price list of the cloud."""
        self._conditions.set_prices(prices)
        self._look()

    def set_battery(self, charge: float) -> None:
        """Take the battery's charge, in [0, 1], from now on; nobody reads it any more."""
        self._read_charge = lambda: charge
        self._charge_at = float("-inf")
        self._look_at_battery()

    def follow(self, scenario: Scenario) -> None:
        """Plan from another profile from now on, and from what it says of the link; requests under way keep their mode."""
        with self._lock:
            if scenario == self._scenario:
                return  # what was learnt since stays
            self._scenario = scenario
            self._conditions = Conditions(scenario.link)
            self._plans.clear()
            self._charge_at = float("-inf")

    def _look_at_battery(self) -> None:
        now = self._clock()
        if now - self._charge_at < CHARGE_EVERY_S:
            return
        self._charge_at = now
        self._conditions.set_battery(self._read_charge())

    def _look(self) -> None:
        with self._lock:
            plans = tuple(self._plans.items())
        for name, plan in plans:
            changed = plan.look()
            if changed is not None:
                link = self._conditions.link
                logger.info(
                    "task %s: requests that leave go by %s from now on; round trip %.0f ms, %.1f Mbit/s up",
                    name,
                    changed,
                    1000 * link.round_trip_s,
                    link.up_bytes_per_s / 125_000,
                )

    def _plan_of(self, task: Task) -> LivePlan:
        with self._lock:
            plan = self._plans.get(task.name)
            if plan is None:
                rules = Constraints(
                    may_stay_local=False,
                    allow_split=task.policy.allow_split,
                    set_up=self._set_up,
                    layers_on_device=self._layers,
                )
                plan = LivePlan(
                    self._scenario,
                    rules,
                    Weights(),
                    clock=self._clock,
                    conditions=self._conditions,
                )
                self._plans[task.name] = plan
            return plan
