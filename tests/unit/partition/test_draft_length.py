"""Draft length against brute force and published test vectors; acceptance against scikit-learn's isotonic regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.extend.draft_length import (
    MAX_DRAFT,
    Acceptance,
    DraftLength,
    RoundCosts,
    best_length,
    break_even_round_trip_s,
    geometric,
    seconds_per_token,
    tokens_per_round,
)
from partition.extend.fallback import Health, Step, next_step, reply_timeout_s


def in_ms(*, draft: float, verify: float, slope: float = 0.0, rtt: float = 0.0) -> RoundCosts:
    return RoundCosts(
        draft_s=draft / 1000,
        verify_base_s=verify / 1000,
        verify_per_draft_s=slope / 1000,
        round_trip_s=rtt / 1000,
    )


def test_the_vectors_of_the_method() -> None:
    survival = geometric(0.8)
    assert tokens_per_round(survival, 4) == pytest.approx(3.3616)
    costs = in_ms(draft=8, verify=25, rtt=20)
    times = [1000 * seconds_per_token(costs, survival, length) for length in range(1, 6)]
    assert times == pytest.approx([29.444, 25.000, 23.374, 22.906, 23.040], abs=5e-4)
    assert best_length(costs, survival) == 4


@pytest.mark.parametrize(
    ("draft", "stream", "acceptance", "rtt_ms", "length"),
    [
        (20, 25, 0.9, 3, 2),
        (8, 25, 0.6, 8, 2),
        (8, 25, 0.7, 14, 3),
        (8, 25, 0.8, 27, 5),
        (8, 25, 0.9, 67, 10),
        (20, 60, 0.7, 32, 3),
        (20, 60, 0.9, 152, 10),
        (8, 60, 0.8, 136, 9),
        (8, 60, 0.9, 315, 19),
    ],
)
def test_the_break_even_table(
    draft: float, stream: float, acceptance: float, rtt_ms: float, length: int
) -> None:
    costs = in_ms(draft=draft, verify=stream)
    rtt, best = break_even_round_trip_s(costs, geometric(acceptance, 40), stream / 1000)
    assert (round(1000 * rtt), best) == (rtt_ms, length)


@pytest.mark.parametrize("acceptance", [0.6, 0.7, 0.8])
def test_a_slow_drafter_never_breaks_even(acceptance: float) -> None:
    costs = in_ms(draft=20, verify=25)
    assert break_even_round_trip_s(costs, geometric(acceptance), 0.025)[0] <= 1e-12


times = st.floats(1e-4, 0.5)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=16), times, times, times, times)
def test_the_first_draft_that_does_not_pay_is_the_optimum(
    acceptances: list[float], draft: float, base: float, slope: float, rtt: float
) -> None:
    survival = [float(value) for value in np.cumprod(acceptances)]
    costs = RoundCosts(
        draft_s=draft,
        verify_base_s=base,
        verify_per_draft_s=slope,
        round_trip_s=rtt,
        up_bytes_per_s=1e5,
    )
    best = min(seconds_per_token(costs, survival, n) for n in range(len(survival) + 1))
    got = seconds_per_token(costs, survival, best_length(costs, survival))
    assert got == pytest.approx(best, rel=1e-9)


@settings(deadline=None)
@given(times, times, times, st.floats(0.1, 0.95))
def test_break_even_is_where_both_take_the_same_time(
    draft: float, base: float, stream: float, acceptance: float
) -> None:
    survival = geometric(acceptance)
    costs = RoundCosts(
        draft_s=draft, verify_base_s=stream + base, verify_per_draft_s=0.0, round_trip_s=0.0
    )
    rtt, length = break_even_round_trip_s(costs, survival, stream)
    if rtt <= 0:
        return
    there = RoundCosts(
        draft_s=draft, verify_base_s=stream + base, verify_per_draft_s=0.0, round_trip_s=rtt
    )
    assert seconds_per_token(there, survival, length) == pytest.approx(stream, rel=1e-6)
    assert seconds_per_token(there, survival, best_length(there, survival)) >= stream * (1 - 1e-6)


def test_one_draft_is_best_up_to_the_round_trip_of_the_formula() -> None:
    draft, verify, slope, a = 0.008, 0.025, 0.002, 0.6
    limit = (draft + slope) * (1 + a) / a**2 - (draft + slope) - verify
    assert limit > 0
    for rtt, expected in ((limit * 0.99, 1), (limit * 1.01, 2)):
        costs = RoundCosts(
            draft_s=draft, verify_base_s=verify, verify_per_draft_s=slope, round_trip_s=rtt
        )
        assert best_length(costs, geometric(a)) == expected


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.05, 0.2, 0.4, 0.5, 0.7, 0.9, 0.99]), st.booleans()),
        min_size=16,
        max_size=80,
    )
)
def test_acceptance_is_isotonic_regression(judged: list[tuple[float, bool]]) -> None:
    isotonic = pytest.importorskip("sklearn.isotonic", reason="needs the extra `train`")
    fitted = Acceptance()
    for probability, stood in judged:
        fitted.observe([probability], 1 if stood else 0)
    used = judged[: 16 * (len(judged) // 16)]
    prior = [(index + 0.5) / 8 for index in range(8)]
    x = prior + [probability for probability, _ in used]
    y = prior + [float(stood) for _, stood in used]
    peer = isotonic.IsotonicRegression().fit(x, y)
    for probability in sorted(set(x)):
        assert fitted.of(probability) == pytest.approx(float(peer.predict([probability])[0]))


def test_drafts_after_the_first_refusal_are_not_judged() -> None:
    acceptance = Acceptance()
    for _ in range(100):
        acceptance.observe([0.9, 0.9, 0.3, 0.3], 1)
    assert acceptance.mean == pytest.approx((100 + 5.6) / 208)
    assert acceptance.of(0.4) == pytest.approx(0.3125)  # still the prior there


def simulate(costs: RoundCosts, controller: DraftLength | int, *, rounds: int = 4000) -> float:
    """Seconds a token of a drafter whose probability is its true acceptance; an int drafts that many always."""
    rng = np.random.default_rng(5)
    seconds, tokens = 0.0, 0
    for _ in range(rounds):
        upcoming = rng.choice([0.35, 0.97], MAX_DRAFT, p=[0.3, 0.7])
        drafted: list[float] = []
        if isinstance(controller, int):
            drafted = [float(p) for p in upcoming[:controller]]
            sent = len(drafted)
        else:
            while controller.should_draft(drafted):
                drafted.append(float(upcoming[len(drafted)]))
            sent = controller.num_to_send(drafted)
        stands = rng.random(MAX_DRAFT) < upcoming
        accepted = next((i for i in range(sent) if not stands[i]), sent)
        took = costs.round_s(0) + len(drafted) * costs.draft_s + sent * costs.sending_s
        if not isinstance(controller, int):
            controller.observe(seconds=took, probabilities=drafted[:sent], num_accepted=accepted)
        seconds, tokens = seconds + took, tokens + accepted + 1
    return seconds / tokens


@pytest.mark.parametrize("rtt", [2, 20, 100])
def test_adapting_beats_every_constant_length(rtt: float) -> None:
    costs = in_ms(draft=8, verify=25, slope=4, rtt=rtt)
    best = min(simulate(costs, length) for length in range(MAX_DRAFT + 1))
    assert simulate(costs, DraftLength(costs)) < best * 1.001


def test_a_useless_drafter_is_not_sent() -> None:
    length = DraftLength(in_ms(draft=20, verify=25, slope=5, rtt=5))
    for _ in range(64):
        length.observe(seconds=0.05, probabilities=[0.5], num_accepted=0)
    assert not length.should_draft([])
    assert length.num_to_send([0.5, 0.5]) == 0


@pytest.mark.parametrize(
    ("health", "step"),
    [
        (Health(), Step.GO_ON),
        (Health(num_misses=1), Step.REPEAT),
        (Health(num_misses=2), Step.STREAM),
        (Health(num_misses=2, is_reachable=False), Step.FINISH_LOCALLY),
        (Health(is_reachable=False), Step.FINISH_LOCALLY),
        (Health(num_prefills=2), Step.GO_ON),
        (Health(num_prefills=3), Step.STREAM),
        (Health(num_rounds=31, seconds_per_token=2, streaming_s=1), Step.GO_ON),
        (Health(num_rounds=32, seconds_per_token=2, streaming_s=1), Step.STREAM),
        (
            Health(num_rounds=32, seconds_per_token=2, streaming_s=1, wants_latency=False),
            Step.GO_ON,
        ),
        (Health(num_rounds=32, seconds_per_token=1, streaming_s=2), Step.GO_ON),
    ],
)
def test_the_table_of_fallbacks(health: Health, step: Step) -> None:
    assert next_step(health) is step


def test_patience_is_three_times_the_slow_round() -> None:
    assert math.isclose(reply_timeout_s(0.05, 0.2), 0.75)
