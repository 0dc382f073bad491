"""The live plan: a link that degrades, a cloud that goes away or fills up, a price that rises, a battery that empties."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from partition.planning.cost import Mode, Routing, Scenario
from partition.planning.live_plan import LivePlan
from partition.planning.planner import Constraints, Weights
from partition.planning.profile import Power, Prices
from tests.plan_scenarios import LAYERS, LINK, scenario
from tests.simulators import Clock


def live(found: Scenario, clock: Clock, **constraints: object) -> LivePlan:
    return LivePlan(found, Constraints(**constraints), Weights(), clock=clock)  # type: ignore[arg-type]


def small_frames(plan: LivePlan, clock: Clock, *, trip_s: float, seconds: float) -> list[str]:
    """Frames of a running answer, one after the other; the modes that requests beginning then would get."""
    modes, until = [], clock.now + seconds
    while clock.now < until:
        clock.advance(max(trip_s, 0.05))
        plan.conditions.observe_exchange(
            bytes_up=120, bytes_down=120, elapsed_s=trip_s + 0.2, server_s=0.2
        )
        modes.append(str(plan.mode))
    return modes


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_link_that_degrades_is_left_within_two_seconds(clock: Clock) -> None:
    """VERIFY on a good link; once every frame takes three seconds, the cloud alone: one round trip a request."""
    found = scenario(survival=(0.95, 0.9, 0.85, 0.8, 0.75), link=replace(LINK, round_trip_s=0.005))
    plan = live(found, clock, may_stay_local=False)
    assert set(small_frames(plan, clock, trip_s=0.005, seconds=20)) == {"verify"}
    start = clock.now
    while plan.mode is Mode.VERIFY and clock.now < start + 10:
        clock.advance(0.25)  # several answers are on the way at once
        plan.conditions.observe_exchange(bytes_up=120, bytes_down=120, elapsed_s=3.2, server_s=0.2)
    assert plan.mode is Mode.CLOUD
    assert clock.now - start <= 2.0


def test_a_split_is_left_within_two_seconds_and_not_taken_up_again(clock: Clock) -> None:
    """Two machines in one room, the cloud's own model slow by the layer; then the way leads over a wide area."""
    near = replace(LINK, round_trip_s=0.0005, up_bytes_per_s=1.25e8, down_bytes_per_s=1.25e8)
    quick = replace(LAYERS, layer_decode_s=(1e-4, 0.0), layer_prefill_s=(1e-4, 1e-6, 0.0))
    rules = {"may_stay_local": False, "allow_split": True, "same_tokenizer": False}
    plan = live(scenario(link=near, edge_layers=quick), clock, **rules, layers_on_device=27)
    assert set(small_frames(plan, clock, trip_s=0.0005, seconds=20)) == {"split"}
    modes = []
    for _ in range(400):
        clock.advance(0.25)  # several answers are on the way at once
        plan.conditions.observe_exchange(bytes_up=900, bytes_down=120, elapsed_s=0.9, server_s=0.2)
        modes.append(plan.mode)
    assert 0.25 * (modes.index(Mode.CLOUD) + 1) <= 2.0
    assert set(modes[modes.index(Mode.CLOUD) :]) == {Mode.CLOUD}
    assert plan.state.num_changes == 1


def test_an_unreachable_cloud_is_left_at_once_and_comes_back_slowly(clock: Clock) -> None:
    poor = Routing(local_quality=0.5)
    plan = live(scenario(routing=poor), clock)
    assert plan.mode is Mode.CASCADE
    plan.conditions.observe_reachable(False)
    assert plan.mode is Mode.LOCAL
    plan.conditions.observe_reachable(True)
    assert plan.mode is Mode.LOCAL
    clock.advance(30)
    assert plan.mode is Mode.LOCAL
    for _ in range(200):
        clock.advance(0.5)
        plan.mode  # noqa: B018
    assert plan.mode is Mode.CASCADE
    assert plan.state.num_changes == 2


def test_a_cloud_that_fills_up_is_used_less(clock: Clock) -> None:
    plan = live(scenario(), clock)
    assert plan.mode is Mode.CASCADE
    clock.advance(100)
    for _ in range(100):
        plan.conditions.observe_cloud(predicted_s=1.0, measured_s=6.0)
        clock.advance(0.5)
        plan.mode  # noqa: B018
    assert plan.mode is Mode.LOCAL


def test_a_price_that_rises_turns_to_the_device(clock: Clock) -> None:
    plan = live(scenario(), clock)
    clock.advance(100)
    plan.conditions.set_prices(Prices(cloud_usd_per_s=0.1))
    for _ in range(5):
        clock.advance(0.5)
        plan.mode  # noqa: B018
    assert plan.mode is Mode.LOCAL


def test_an_empty_battery_weighs_energy(clock: Clock) -> None:
    thrifty = scenario(
        routing=Routing(local_quality=0.95, cascade_quality=0.95),
        prices=Prices(cloud_usd_per_s=0),
        power=Power(busy_w=10, idle_w=0),
    )
    weights = Weights(per_joule=0.1, per_exposure=0.0)
    plan = LivePlan(thrifty, Constraints(), weights, clock=clock)
    assert plan.mode is Mode.LOCAL
    plan.conditions.set_battery(0.1)
    for _ in range(5):
        clock.advance(0.5)
        plan.mode  # noqa: B018
    assert plan.mode is Mode.CLOUD


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_link_at_the_boundary_does_not_make_it_flap(clock: Clock, seed: int) -> None:
    found = scenario(survival=(0.9,) * 6, link=replace(LINK, round_trip_s=0.17))
    plan = live(found, clock, may_stay_local=False)
    rng = np.random.default_rng(seed)
    before, changes = plan.mode, []
    for _ in range(1200):
        clock.advance(0.25)
        trip = float(0.17 * rng.lognormal(0, 0.4))
        plan.conditions.observe_exchange(bytes_up=100, bytes_down=100, elapsed_s=trip, server_s=0.0)
        if plan.mode is not before:
            before = plan.mode
            changes.append(clock.now)
    assert all(b - a >= 60 for a, b in itertools.pairwise(changes))


def test_what_a_drafted_token_takes_is_learnt(clock: Clock) -> None:
    """Half of a decoded one where text repeats itself: VERIFY is predicted faster, the device alone as before."""
    plan = live(scenario(), clock)

    def seconds(mode: Mode) -> float:
        clock.advance(1.0)
        found = (option.prediction for option in plan.state.plan.options)
        return next(one.tpot_s for one in found if one.mode is mode)

    before = {mode: seconds(mode) for mode in (Mode.VERIFY, Mode.LOCAL)}
    for _ in range(20):
        plan.conditions.observe_drafting(predicted_s=0.03, measured_s=0.015)
    assert seconds(Mode.VERIFY) < 0.95 * before[Mode.VERIFY]
    assert seconds(Mode.LOCAL) == before[Mode.LOCAL]


def test_without_a_cloud_it_is_always_local(clock: Clock) -> None:
    plan = live(scenario(cloud=None, link=None, edge_layers=None), clock)
    clock.advance(5)
    plan.conditions.observe_exchange(bytes_up=1, bytes_down=1, elapsed_s=1.0, server_s=0.0)
    assert plan.mode is Mode.LOCAL
    assert plan.state.num_changes == 0


def test_nothing_allowed_is_no_mode(clock: Clock) -> None:
    plan = live(scenario(), clock, may_leave_device=False, may_stay_local=False)
    assert plan.mode is None
