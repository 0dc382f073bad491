"""Quotas against their definition: never over a limit, and the promised wait is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.tenancy.quotas import Bucket, Meters, Quota, TenantMeter
from protos.errors import QuotaExceededError

FREE = Quota(concurrent_calls=0, requests_per_s=0, tokens_per_minute=0)


def admit(meter: TenantMeter, now_s: float = 0.0, spent: int = 0) -> QuotaExceededError | None:
    try:
        meter.admit(now_s=now_s, spent_micro_usd=spent, unix_s=86400 * 3 + 3600)
    except QuotaExceededError as error:
        return error
    return None


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60), st.integers(1, 5))
def test_calls_at_once_never_exceed_the_limit(steps: list[tuple[float, bool]], limit: int) -> None:
    meter = TenantMeter(Quota(concurrent_calls=limit, requests_per_s=0, tokens_per_minute=0))
    running = 0
    for _, comes in steps:
        if comes:
            error = admit(meter)
            assert (error is None) == (running < limit)
            running += error is None
        elif running:
            meter.leave()
            running -= 1
        assert meter.num_running == running <= limit


@given(st.lists(st.floats(0, 2), min_size=1, max_size=80), st.integers(1, 10))
def test_requests_never_exceed_rate_and_burst(gaps: list[float], rate: int) -> None:
    meter = TenantMeter(Quota(concurrent_calls=0, requests_per_s=rate, tokens_per_minute=0))
    now_s, admitted = 0.0, []
    for gap in gaps:
        now_s += gap
        error = admit(meter, now_s)
        if error is None:
            admitted.append(now_s)
        else:
            assert error.quota == "requests_per_s"
            assert error.retry_after_s is not None
            assert admit(meter, now_s + error.retry_after_s) is None  # the promise holds
            admitted.append(now_s + error.retry_after_s)
            now_s += error.retry_after_s
    for start in admitted:
        inside = [at for at in admitted if start <= at < start + 1]
        assert len(inside) <= 2 * rate + 1


def test_tokens_are_charged_afterwards_and_waited_for() -> None:
    meter = TenantMeter(Quota(concurrent_calls=0, requests_per_s=0, tokens_per_minute=60))
    assert admit(meter) is None
    meter.charge(180, 0.0)
    error = admit(meter)
    assert error is not None
    assert error.quota == "tokens_per_minute"
    assert error.retry_after_s == pytest.approx(121, abs=0.01)
    assert admit(meter, 121.1) is None


def test_the_daily_budget_ends_at_midnight_utc() -> None:
    meter = TenantMeter(Quota(daily_micro_usd=100))
    assert admit(meter, spent=99) is None
    error = admit(meter, spent=100)
    assert error is not None
    assert error.quota == "daily_micro_usd"
    assert error.retry_after_s == 86400 - 3600


def test_a_changed_quota_keeps_what_is_running() -> None:
    meters = Meters()
    meter = meters.of("clinic", FREE)
    assert admit(meter) is None
    changed = meters.of("clinic", Quota(concurrent_calls=1))
    assert changed is not meter
    assert admit(changed) is not None
    assert meters.of("clinic", Quota(concurrent_calls=1)) is changed


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate_per_s=1, burst=1)
    bucket.take(1, 100.0)
    assert bucket.wait_s(1, 50.0) == 1.0
