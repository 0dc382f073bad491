"""The planner against brute force, its reasons, its turning points, and its refusal to flap."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.extend.draft_length import geometric
from partition.planning.cost import Mode, Prediction, Workload, predict_all
from partition.planning.planner import (
    PRIVACY_STATEMENT,
    Constraints,
    Option,
    Weights,
    choose,
    dominates,
    make_plan,
    pareto,
)
from partition.planning.profile import Prices
from partition.planning.replanning import Hysteresis, Replanner
from partition.planning.sensitivity import in_words, turning_points
from tests.plan_scenarios import CLOUD, LINK, scenario

FREE = Constraints(allow_split=True)


def option(plan_options: tuple[Option, ...], mode: Mode) -> Option:
    return next(o for o in plan_options if o.prediction.mode is mode)


few = st.sampled_from([0.0, 1.0, 2.0, 5.0])
predictions = st.builds(
    Prediction,
    mode=st.sampled_from(list(Mode)),
    split=st.integers(1, 5),
    ttft_s=few,
    tpot_s=few,
    total_s=st.sampled_from([5.0, 6.0, 9.0]),
    bytes_up=few,
    bytes_down=few,
    edge_energy_j=few,
    cloud_s=few,
    money_usd=few,
    exposure=st.sampled_from([0.0, 0.2, 1.0]),
    quality=st.sampled_from([0.8, 0.9]),
    edge_memory_bytes=st.integers(0, 10),
)
limit = st.none() | few
constraint_sets = st.builds(
    Constraints,
    may_leave_device=st.booleans(),
    may_stay_local=st.booleans(),
    allow_split=st.booleans(),
    same_tokenizer=st.booleans(),
    min_layers_on_device=st.integers(1, 4),
    memory_bytes=st.none() | st.integers(0, 10),
    max_ttft_s=limit,
    max_total_s=st.none() | st.sampled_from([5.0, 8.0]),
    max_money_usd=limit,
    min_quality=st.none() | st.just(0.85),
)
weight_sets = st.builds(
    Weights,
    per_s_to_first_token=few,
    per_s_of_answer=few,
    per_megabyte=few,
    per_joule=few,
    per_dollar=few,
    per_exposure=few,
    per_wrong_answer=few,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(predictions, min_size=1, max_size=8), constraint_sets, weight_sets)
def test_the_plan_equals_brute_force(
    found: list[Prediction], rules: Constraints, weights: Weights
) -> None:
    plan = choose(found, rules, weights)

    def may(p: Prediction) -> bool:
        stays = p.mode in (Mode.LOCAL, Mode.CASCADE)
        return (
            (p.mode is Mode.LOCAL or rules.may_leave_device)
            and (not stays or rules.may_stay_local)
            and (p.mode is not Mode.SPLIT or rules.allow_split)
            and (p.mode is not Mode.SPLIT or (p.split or 0) >= rules.min_layers_on_device)
            and (p.mode is not Mode.VERIFY or rules.same_tokenizer)
            and (rules.memory_bytes is None or p.edge_memory_bytes <= rules.memory_bytes)
            and (rules.max_ttft_s is None or p.ttft_s <= rules.max_ttft_s)
            and (rules.max_total_s is None or p.total_s <= rules.max_total_s)
            and (rules.max_money_usd is None or p.money_usd <= rules.max_money_usd)
            and (rules.min_quality is None or p.quality >= rules.min_quality)
        )

    def cost(p: Prediction) -> float:
        return (
            weights.per_s_to_first_token * p.ttft_s
            + weights.per_s_of_answer * (p.total_s - p.ttft_s)
            + weights.per_megabyte * (p.bytes_up + p.bytes_down) / 1e6
            + weights.per_joule * p.edge_energy_j
            + weights.per_dollar * p.money_usd
            + weights.per_exposure * p.exposure
            + weights.per_wrong_answer * (1 - p.quality)
        )

    allowed = [p for p in found if may(p)]
    if not allowed:
        assert plan.chosen is None
        assert plan.reason.startswith("No mode is allowed")
        return
    assert plan.chosen in allowed
    assert plan.chosen is not None
    assert not any(dominates(p, plan.chosen) for p in allowed)
    frontier = [p for p in allowed if not any(dominates(q, p) for q in allowed)]
    assert cost(plan.chosen) == pytest.approx(min(cost(p) for p in frontier))
    # Time after the first token counts apart from the first token, so only the unweighted orders may differ.
    if weights.per_s_of_answer <= weights.per_s_to_first_token:
        assert cost(plan.chosen) == pytest.approx(min(cost(p) for p in allowed))


@given(st.lists(predictions, min_size=1, max_size=8))
def test_dominance_is_a_strict_order_and_the_frontier_beats_the_rest(
    found: list[Prediction],
) -> None:
    frontier = pareto(found)
    assert frontier
    for one in found:
        assert not dominates(one, one)
        for other in found:
            assert not (dominates(one, other) and dominates(other, one))
        assert one in frontier or any(dominates(p, one) for p in frontier)


def test_over_a_wide_area_it_says_do_not_split() -> None:
    plan = make_plan(scenario(), FREE)
    assert not plan.split_is_advised
    splits = [o for o in plan.options if o.prediction.mode is Mode.SPLIT]
    assert len(splits) == 27
    assert "Do not split" in plan.reason
    assert "50 ms for every token" in plan.reason


def test_a_slower_device_makes_every_cut_dominated() -> None:
    slow = replace(CLOUD, layer_decode_s=(2e-2, 0.0))
    plan = make_plan(scenario(edge_layers=slow, prices=Prices(cloud_usd_per_s=0)), FREE)
    splits = [o for o in plan.options if o.prediction.mode is Mode.SPLIT]
    assert all(o.dominated_by == "cloud" for o in splits)
    assert "every cut is dominated, the best of them by cloud" in plan.reason


def test_a_split_wins_on_a_fast_network_with_a_queued_cloud_and_says_what_it_exposes() -> None:
    near = replace(LINK, round_trip_s=0.0005, up_bytes_per_s=1.25e8, down_bytes_per_s=1.25e8)
    fast = replace(CLOUD, layer_decode_s=(1e-4, 0.0), layer_prefill_s=(1e-4, 1e-6, 0.0))
    busy = scenario(link=near, edge_layers=fast)
    plan = make_plan(busy, replace(FREE, may_stay_local=False, same_tokenizer=False))
    assert plan.split_is_advised
    assert plan.chosen is not None
    assert plan.chosen.split == 27  # affine in k: an end of the interval
    assert PRIVACY_STATEMENT in plan.reason
    refused = make_plan(busy, Constraints(may_stay_local=False, same_tokenizer=False))
    assert refused.chosen is not None
    assert refused.chosen.mode is Mode.CLOUD
    assert "hidden states are not anonymous" in refused.reason


@pytest.mark.parametrize(
    ("rules", "mode"),
    [
        (Constraints(may_leave_device=False), Mode.LOCAL),
        (Constraints(min_quality=0.9, may_stay_local=False, same_tokenizer=False), Mode.CLOUD),
        (Constraints(min_quality=0.9, may_stay_local=False), Mode.VERIFY),
    ],
)
def test_policy_decides_first(rules: Constraints, mode: Mode) -> None:
    plan = make_plan(scenario(survival=geometric(0.95)), rules)
    assert plan.chosen is not None
    assert plan.chosen.mode is mode


def test_contradicting_limits_name_what_to_relax() -> None:
    plan = make_plan(scenario(), Constraints(may_leave_device=False, may_stay_local=False))
    assert plan.chosen is None
    assert "may not leave the device" in plan.reason
    assert "Relax" in plan.reason


def test_weights_are_not_negative() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Weights(per_joule=-1)


def test_a_turning_point_is_where_the_choice_turns() -> None:
    base, rules = scenario(survival=geometric(0.9)), Constraints(may_stay_local=False)
    today = make_plan(base, rules).chosen
    assert today is not None
    assert today.mode is Mode.VERIFY
    turns = [t for t in turning_points(base, rules) if t.circumstance == "the round trip"]
    assert [turn.mode for turn in turns] == ["cloud"]
    at = turns[0].factor * LINK.round_trip_s
    for trip, mode in ((at * 0.97, Mode.VERIFY), (at * 1.03, Mode.CLOUD)):
        moved = replace(base, link=replace(LINK, round_trip_s=trip))
        chosen = make_plan(moved, rules).chosen
        assert chosen is not None
        assert chosen.mode is mode
    assert f"{1000 * at:.0f} ms (cloud)" in in_words(turns)


def test_nothing_to_turn_is_said() -> None:
    only_local = scenario(cloud=None, link=None, edge_layers=None)
    assert turning_points(only_local) == ()
    assert "Nothing" in in_words(())


def test_price_turns_the_choice_towards_the_device() -> None:
    cheap = scenario(prices=Prices(cloud_usd_per_s=1e-6))
    dear = scenario(prices=Prices(cloud_usd_per_s=1.0))
    strict = Constraints()
    first, second = make_plan(cheap, strict).chosen, make_plan(dear, strict).chosen
    assert first is not None
    assert second is not None
    assert second.money_usd < first.money_usd or first.mode is Mode.LOCAL
    assert second.mode is Mode.LOCAL


def run(
    replanner: Replanner, costs: list[dict[str, float]], *, step_s: float = 0.5, start_s: float = 0
) -> list[float]:
    """Times of the changes."""
    changes, before = [], replanner.mode
    for index, one in enumerate(costs):
        now = start_s + (index + 1) * step_s
        if replanner.consider(one, now_s=now) != before:
            before = replanner.mode
            changes.append(now)
    return changes


def test_a_degraded_link_is_left_within_two_seconds() -> None:
    replanner = Replanner("cloud", now_s=0.0)
    run(replanner, [{"cloud": 1.0, "local": 2.0}] * 100)
    assert replanner.mode == "cloud"
    changes = run(replanner, [{"cloud": 9.0, "local": 2.0}] * 10, start_s=50.0)
    assert replanner.mode == "local"
    assert changes[0] - 50.0 <= 2.0


def test_an_impossible_mode_is_left_at_once() -> None:
    replanner = Replanner("cloud", now_s=0.0)
    assert replanner.consider({"local": 2.0}, now_s=0.01) == "local"
    assert replanner.consider({}, now_s=0.02) == "local"


def test_a_gain_must_last() -> None:
    replanner = Replanner("cloud", now_s=0.0)
    good, bad = {"cloud": 1.0, "local": 2.0}, {"cloud": 3.0, "local": 2.0}
    assert run(replanner, [bad, bad, good] * 40) == []


def test_many_calls_in_a_window_count_once() -> None:
    replanner = Replanner("cloud", now_s=0.0)
    run(replanner, [{"cloud": 9.0, "local": 2.0}] * 80, step_s=0.01)
    assert replanner.mode == "cloud"


@pytest.mark.parametrize("seed", range(5))
def test_at_a_noisy_boundary_at_most_one_change_a_minute(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(0, 0.25, (7200, 2))
    costs = [{"cloud": float(a), "local": float(b)} for a, b in noise]
    changes = run(Replanner("cloud", now_s=0.0), costs)
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(changes))
    eager = run(
        Replanner("cloud", now_s=0.0, hysteresis=Hysteresis(num_windows=1, least_stay_s=0)), costs
    )
    assert len(eager) > 10 * max(1, len(changes))


def test_longer_answers_cost_more() -> None:
    short, long = (
        predict_all(scenario(workload=Workload(prompt_tokens=355, output_tokens=m)))
        for m in (8, 64)
    )
    assert all(a.total_s < b.total_s for a, b in zip(short, long, strict=True))
