"""Audit draw, drift, adaptive mode and budget pacing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.calibration.drift import ScoreDrift, bins_of
from partition.errors import CalibrationError
from partition.oversight.adaptive import AdaptiveThreshold
from partition.oversight.audit import AuditPlan
from partition.oversight.budget import (
    DAY_S,
    BudgetPolicy,
    BudgetState,
    Spending,
    ask,
    ask_for_audit,
)

SECRET = b"0123456789abcdef"


def test_audit_rate_is_met_and_the_draw_repeats() -> None:
    plan = AuditPlan(secret=SECRET, rate=0.02)
    drawn = [plan.draws(f"request-{index}") for index in range(20_000)]
    assert np.mean(drawn) == pytest.approx(0.02, abs=0.003)
    assert drawn == [plan.draws(f"request-{index}") for index in range(20_000)]
    other = AuditPlan(secret=SECRET[::-1], rate=0.02)
    assert drawn != [other.draws(f"request-{index}") for index in range(20_000)]
    assert AuditPlan(secret=SECRET, rate=1.0).draws("any")


def test_a_higher_rate_only_adds_audits() -> None:
    low, high = (AuditPlan(secret=SECRET, rate=rate) for rate in (0.02, 0.05))
    ids = [str(index) for index in range(5000)]
    assert {x for x in ids if low.draws(x)} < {x for x in ids if high.draws(x)}


def test_audit_plan_hides_its_secret_and_refuses_bad_values() -> None:
    plan = AuditPlan(secret=SECRET)
    assert "0123" not in repr(plan)
    assert "patient" not in plan.name_of("patient-7")
    for bad in ({"rate": 0.001}, {"rate": 1.1}, {"secret": b"short"}):
        with pytest.raises(CalibrationError):
            AuditPlan(**({"secret": SECRET} | bad))  # type: ignore[arg-type]


def test_drift_is_quiet_on_the_same_scores_and_speaks_on_others() -> None:
    rng = np.random.default_rng(0)
    edges, shares = bins_of(rng.normal(size=1000).tolist())
    assert (len(edges), len(shares)) == (9, 10)
    same = other = ScoreDrift(edges=edges, shares=shares)
    for index in range(1000):
        same = same.after(float(rng.normal()))
        other = other.after(float(rng.normal() - 0.8))
        if index == 100:
            assert same.psi is None
    assert same.psi is not None
    assert same.psi < 0.1
    assert not same.warns
    assert other.warns


def test_drift_forgets_old_scores() -> None:
    drift = ScoreDrift(edges=(0.0,), shares=(0.5, 0.5))
    for _ in range(1000):
        drift = drift.after(1.0)
    assert drift.warns
    for index in range(12_000):
        drift = drift.after(1.0 if index % 2 else -1.0)
    assert not drift.warns


@pytest.mark.parametrize("scores", [[], [1.0], [1.0] * 50, [0.0, 1.0] * 20])
def test_bins_of_few_or_tied_scores(scores: list[float]) -> None:
    edges, shares = bins_of(scores)
    assert len(shares) == len(edges) + 1
    assert sum(shares) == pytest.approx(1.0)
    drift = ScoreDrift(edges=edges, shares=shares)
    for score in scores * 300:
        drift = drift.after(score)
    assert not drift.warns


def test_adaptive_threshold_keeps_the_long_run_error() -> None:
    rng = np.random.default_rng(1)
    adaptive = AdaptiveThreshold(threshold=0.5, max_error=0.05, audit_rate=0.05, eta=0.0005)
    errors = []
    for index in range(60_000):
        probability = rng.random()
        # Half-way the model gets worse: no fixed threshold would do.
        right = rng.random() < (probability**0.25 if index < 30_000 else probability**0.5)
        if adaptive.accepts(probability):
            errors.append(not right)
            audited = rng.random() < adaptive.audit_rate
            adaptive = adaptive.after_local(float(not right) if audited else None)
        else:
            adaptive = adaptive.after_sent()
    assert np.mean(errors) <= 0.05 + adaptive.excess_bound
    assert np.mean(errors[-5000:]) == pytest.approx(0.05, abs=0.03)


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0, 1))
def test_adaptive_bound_holds_for_any_sequence(losses: list[float], start: float) -> None:
    adaptive = AdaptiveThreshold(threshold=start, max_error=0.05, audit_rate=1.0, eta=0.01)
    taken = []
    for loss in losses:
        if adaptive.accepts(1.0):
            taken.append(loss - 0.05)
            adaptive = adaptive.after_local(loss)
        else:
            adaptive = adaptive.after_sent()
    if taken:
        assert np.mean(taken) <= adaptive.excess_bound + 1e-9


def test_adaptive_threshold_comes_back() -> None:
    adaptive = AdaptiveThreshold(threshold=1.05, max_error=0.05, audit_rate=0.1, eta=0.001)
    for _ in range(1000):
        adaptive = adaptive.after_sent()
    assert adaptive.accepts(1.0)
    with pytest.raises(CalibrationError, match="hundredth"):
        AdaptiveThreshold(threshold=0.5, max_error=0.05, audit_rate=0.01, eta=0.001)


POLICY = BudgetPolicy(daily_micro_usd=1_000_000, audit_ratio=0.1)


def spend_a_day(
    state: BudgetState, day: int, requests: int, rng: np.random.Generator
) -> tuple[BudgetState, list[tuple[float, float]]]:
    """Requests spread over one day, each asking for 2,000 micro-dollars; returns what was sent: hour and gain."""
    sent = []
    for second in np.sort(rng.random(requests)) * DAY_S:
        gain = float(rng.random())
        verdict, state = ask(
            POLICY, state, now_s=day * DAY_S + second, gain=gain, cost_micro_usd=2000
        )
        if verdict is Spending.SEND:
            sent.append((second / 3600, gain))
    return state, sent


def test_pacing_spends_the_day_evenly_on_what_gains_most() -> None:
    rng = np.random.default_rng(0)
    state, _ = spend_a_day(BudgetState(), 20_000, 3000, rng)
    state, sent = spend_a_day(state, 20_001, 3000, rng)
    # The budget pays for 450 of 3,000: the best 15 %.
    assert 350 <= len(sent) <= 450
    assert np.mean([gain for _, gain in sent]) > 0.85
    by_quarter = np.histogram([hour for hour, _ in sent], bins=4, range=(0, 24))[0]
    assert by_quarter.min() > 0.4 * by_quarter.max()


def test_ample_budget_sends_whatever_gains() -> None:
    rng = np.random.default_rng(0)
    _, sent = spend_a_day(BudgetState(), 20_000, 300, rng)
    assert len(sent) > 270


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3 * DAY_S), st.integers(0, 300_000), st.booleans(), st.floats(-1, 1)
        ),
        max_size=80,
    )
)
def test_a_day_never_costs_more_than_its_budget(
    asked: list[tuple[float, int, bool, float]],
) -> None:
    state, spent = BudgetState(), {}
    for offset, cost, is_audit, gain in sorted(asked):
        now_s = 20_000 * DAY_S + offset
        if is_audit:
            verdict, state = ask_for_audit(POLICY, state, now_s=now_s, cost_micro_usd=cost)
        else:
            verdict, state = ask(POLICY, state, now_s=now_s, gain=gain, cost_micro_usd=cost)
        if verdict is Spending.SEND:
            day = int(now_s // DAY_S)
            spent[day] = spent.get(day, 0) + cost
    assert all(total <= POLICY.daily_micro_usd for total in spent.values())


def test_audits_keep_their_part() -> None:
    state = BudgetState(day=20_000, spent_micro_usd=900_000)
    now_s = 20_000.5 * DAY_S
    assert ask(POLICY, state, now_s=now_s, gain=1.0, cost_micro_usd=1)[0] is Spending.EXHAUSTED
    verdict, after = ask_for_audit(POLICY, state, now_s=now_s, cost_micro_usd=100_000)
    assert verdict is Spending.SEND
    assert ask_for_audit(POLICY, after, now_s=now_s, cost_micro_usd=1)[0] is Spending.EXHAUSTED


def test_a_clock_set_back_gives_no_second_budget() -> None:
    state = BudgetState(day=20_000, spent_micro_usd=900_000)
    assert state.at(19_999 * DAY_S) == state
    assert state.at(20_001 * DAY_S).spent_micro_usd == 0


def test_forecast_learns_the_hours() -> None:
    state = replace(BudgetState(day=20_000), today=(0,) * 8 + (100,) * 8 + (0,) * 8)
    next_day = state.at(20_001 * DAY_S)
    assert next_day.requests_left(20_001 * DAY_S) == 800
    assert next_day.requests_left(20_001 * DAY_S + 12 * 3600) == 400
    assert next_day.requests_left(20_001 * DAY_S + 20 * 3600) == 1
