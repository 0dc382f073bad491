from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cloud.circuit_breaker import BreakerLimits, CircuitBreaker
from tests.simulators import Clock


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.try_enter()
        breaker.record_failure()


def test_opens_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock=clock)
    fail(breaker, 4)
    assert breaker.remaining_s == 0
    fail(breaker)
    assert breaker.remaining_s == 10 and not breaker.try_enter()
    clock.advance(9.9)
    assert not breaker.try_enter()
    clock.advance(0.2)
    assert breaker.remaining_s == 0


def test_a_success_between_keeps_it_closed() -> None:
    breaker = CircuitBreaker(clock=Clock())
    for _ in range(3):
        fail(breaker, 4)
        assert breaker.try_enter()
        breaker.record_success()
        breaker.record_success()  # below half of the window
    assert breaker.remaining_s == 0


def test_opens_at_half_of_the_window() -> None:
    breaker = CircuitBreaker(clock=Clock())
    for _ in range(10):
        assert breaker.try_enter()
        breaker.record_success()
        fail(breaker)
    assert breaker.remaining_s > 0


def test_one_trial_and_doubling_pauses() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock=clock)
    fail(breaker, 5)
    pauses = []
    for _ in range(7):
        clock.advance(breaker.remaining_s)
        assert breaker.try_enter()
        assert not breaker.try_enter(), "a second trial beside the first"
        breaker.record_failure()
        pauses.append(breaker.remaining_s)
    assert pauses == [20, 40, 80, 160, 300, 300, 300]
    clock.advance(300)
    assert breaker.try_enter()
    breaker.record_success()
    fail(breaker, 4)
    assert breaker.remaining_s == 0, "the trial's success forgets the past"
    fail(breaker)
    assert breaker.remaining_s == 10, "and its pauses"


def test_a_trial_given_up_makes_room_for_the_next() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock=clock)
    fail(breaker, 5)
    clock.advance(10)
    assert breaker.try_enter()
    breaker.record_nothing()
    assert breaker.try_enter()


def test_calls_from_before_the_opening_change_nothing() -> None:
    breaker = CircuitBreaker(clock=Clock())
    for _ in range(7):
        assert breaker.try_enter()
    for _ in range(7):
        breaker.record_failure()
    assert breaker.remaining_s == 10


@given(st.lists(st.sampled_from(["ok", "bad", "none", "wait"]), max_size=200))
def test_never_shut_for_longer_than_the_longest_pause(events: list[str]) -> None:
    clock = Clock()
    limits = BreakerLimits()
    breaker = CircuitBreaker(limits, clock=clock)
    for event in events:
        if event == "wait":
            clock.advance(7)
        elif breaker.try_enter():
            {
                "ok": breaker.record_success,
                "bad": breaker.record_failure,
                "none": breaker.record_nothing,
            }[event]()
        assert 0 <= breaker.remaining_s <= limits.max_pause_s
    clock.advance(limits.max_pause_s)
    assert breaker.try_enter()
