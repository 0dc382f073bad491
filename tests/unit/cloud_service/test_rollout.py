import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.fleet.rollout import (
    AbortRule,
    Action,
    Baseline,
    DeviceProgress,
    Policy,
    Verdict,
    buckets_for,
    decide,
    fewest_failures,
    is_worse,
    log_evidence,
    shown_failure_bound,
)

TABLE = {5: 3, 10: 4, 20: 4, 50: 6, 100: 9, 200: 13, 500: 23, 1000: 37}
HOUR = 3600.0


@pytest.mark.parametrize(("began", "failures"), TABLE.items())
def test_fewest_failures_that_abort_at_two_percent(began, failures):
    assert fewest_failures(began, 0.02, 0.01) == failures
    assert not is_worse(failures - 1, began, 0.02, 0.01)


@given(st.integers(1, 200), st.integers(0, 200), st.sampled_from([0.001, 0.02, 0.1, 0.4, 0.95]))
def test_evidence_is_that_of_the_formula_and_grows_with_failures(began, failures, rate):
    failures = min(failures, began)
    rates = [q * rate for q in (2, 4, 8) if q * rate < 0.9] or [(1 + rate) / 2]
    plain = sum(
        (q / rate) ** failures * ((1 - q) / (1 - rate)) ** (began - failures) for q in rates
    ) / len(rates)
    if 1e-250 < plain < 1e250:
        assert log_evidence(failures, began, rate) == pytest.approx(math.log(plain), abs=1e-6)
    if failures < began:
        assert log_evidence(failures + 1, began, rate) > log_evidence(failures, began, rate)


def stops_at(rate, devices, seed):
    """Look after every device, as one after the other begins and its verdict comes in."""
    draw = random.Random(seed)
    failures = 0
    for began in range(1, devices + 1):
        failures += draw.random() < rate
        least = fewest_failures(began, 0.02, 0.01)
        if least is not None and failures >= least:
            return began
    return None


def test_bad_release_stops_in_the_ten_percent_ring():
    stops = [stops_at(0.20, 1000, seed) for seed in range(200)]
    assert sum(stop is not None and stop <= 105 for stop in stops) >= 199
    assert sorted(stop or 9999 for stop in stops)[100] <= 25


def test_good_release_is_rarely_stopped():
    stops = [stops_at(0.02, 1000, seed) for seed in range(1000)]
    assert sum(stop is not None for stop in stops) <= 10


def devices(good=0, failed=0, pending=0, kind="gate", hardware="a", **fields):
    made = [DeviceProgress(verdict=Verdict.GOOD, hardware_class=hardware, **fields)] * good
    made += [
        DeviceProgress(verdict=Verdict.FAILED, error_kind=kind, hardware_class=hardware)
    ] * failed
    return made + [DeviceProgress(hardware_class=hardware, began_s=100 * HOUR)] * pending


def step(them, *, policy=None, hours=100.0, is_last_ring=False, baseline=None):
    return decide(
        them,
        policy or Policy(),
        ring_began_s=100 * HOUR,
        is_last_ring=is_last_ring,
        now_s=100 * HOUR + hours * HOUR,
        baseline=baseline,
    )


@pytest.mark.parametrize(
    ("them", "hours", "expected"),
    [
        (devices(good=20), 25, Action.ADVANCE),
        (devices(good=20), 23, Action.WAIT),  # soak
        (devices(good=4, pending=1), 25, Action.WAIT),  # too few verdicts
        (devices(good=4), 25, Action.ADVANCE),  # there are no more
        (devices(good=20, pending=5), 25, Action.WAIT),  # too few of the ring
        (devices(good=20, pending=2), 25, Action.ADVANCE),
        (devices(good=16, failed=4), 1, Action.ABORT),
        (devices(good=17, failed=3), 25, Action.ADVANCE),
        (devices(failed=4, pending=16), 1, Action.ABORT),
        (devices(failed=3, pending=17), 1, Action.WAIT),  # pending count as good
        (devices(good=500, failed=2, kind="bad_hash"), 1, Action.ABORT),
        (devices(good=500, failed=1, kind="anonymizer"), 1, Action.ABORT),
        (devices(good=16, pending=4), 80, Action.ABORT),  # timed out
    ],
)
def test_steps(them, hours, expected):
    assert step(them, hours=hours).action is expected


def test_offline_devices_do_not_hold_a_ring_back():
    away = [DeviceProgress(has_begun=False, is_online=False)] * 10
    assert step([*devices(good=20), *away], hours=25).action is Action.ADVANCE


def test_last_ring_ends_the_rollout_and_says_what_was_shown():
    found = step(devices(good=100), is_last_ring=True, hours=25)
    assert found.action is Action.DONE
    assert "3%" in found.reason
    assert shown_failure_bound(10) == pytest.approx(0.26, abs=0.005)
    assert shown_failure_bound(100) == pytest.approx(0.03, abs=0.001)


def test_one_hardware_class_that_fails_together_stops_all():
    them = devices(good=400, hardware="a") + devices(good=2, failed=4, hardware="b")
    assert not is_worse(4, 406, 0.02, 0.01)
    assert step(them, hours=25).action is Action.ABORT


def test_own_thresholds_of_the_policy():
    policy = Policy(abort=(AbortRule(on="FAILED", min_executed=10, threshold_percent=5.0),))
    assert step(devices(good=18, failed=2), policy=policy, hours=25).action is Action.ABORT
    assert step(devices(good=6, failed=2), policy=policy, hours=1).action is Action.WAIT


def test_holds_for_what_is_no_failure():
    baseline = Baseline(num_devices=50, cloud_share=0.2, p95_ms=100.0)
    steady = devices(good=20, cloud_share=0.21, p95_ms=105.0)
    assert step(steady, hours=25, baseline=baseline).action is Action.ADVANCE
    moved = devices(good=20, cloud_share=0.3)
    assert step(moved, hours=25, baseline=baseline).action is Action.HOLD
    slower = devices(good=20, p95_ms=130.0)
    assert step(slower, hours=25, baseline=baseline).action is Action.HOLD


def test_no_ring_has_fewer_than_five_devices():
    even = list(range(0, 10_000, 50))  # 200 devices
    assert buckets_for(1.0, range(10_000), 10_000) == 100
    assert buckets_for(1.0, even, 10_000) == 201
    assert buckets_for(10.0, even, 10_000) == 1000
    assert buckets_for(1.0, [5, 9_000, 77], 10_000) == 9_001
    assert buckets_for(100.0, [], 10_000) == 10_000
    assert buckets_for(1.0, [], 10_000) == 100
