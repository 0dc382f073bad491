"""The error alarm: published values, false alarms, and how soon it speaks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partition.oversight.alarm import EVEN, LEANING, ErrorAlarm


@pytest.mark.parametrize(
    ("max_error", "expected"),
    [
        (0.05, [4.668056, 3.259462, 2.397270, 12.827164, 89.901716]),
        (0.10, [2.737500, 1.968663, 1.492320, 4.261206, 15.141982]),
    ],
)
def test_published_values(max_error: float, expected: list[float]) -> None:
    alarm, values = ErrorAlarm(max_error=max_error, delta=0.05, shares=EVEN), []
    for loss in (1, 0, 0, 1, 1):
        alarm = alarm.after(loss)
        values.append(alarm.e_value)
    assert values == pytest.approx(expected, abs=1e-6)
    assert alarm.is_raised == (expected[-1] >= 20)
    assert (alarm.num_audits, alarm.num_errors) == (5, 3)


def test_money_is_neither_made_nor_lost_at_the_start() -> None:
    assert sum(LEANING) == pytest.approx(1.0)
    assert ErrorAlarm(max_error=0.05, delta=0.05).e_value == pytest.approx(1.0)


def audits_until_alarm(true_error: float, most: int, rng: np.random.Generator) -> int | None:
    alarm = ErrorAlarm(max_error=0.05, delta=0.05)
    for count, is_wrong in enumerate(rng.random(most) < true_error, 1):
        alarm = alarm.after(float(is_wrong))
        if alarm.is_raised:
            return count
    return None


def test_false_alarms_stay_below_delta() -> None:
    rng = np.random.default_rng(0)
    raised = sum(audits_until_alarm(0.05, 1000, rng) is not None for _ in range(200))
    assert raised / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_twice_the_error_is_noticed_within_170_audits() -> None:
    rng = np.random.default_rng(0)
    counts = [audits_until_alarm(0.10, 4000, rng) or 4000 for _ in range(300)]
    assert float(np.median(counts)) <= 170


def test_alarm_stays_up() -> None:
    alarm = ErrorAlarm(max_error=0.05, delta=0.05)
    for _ in range(5):
        alarm = alarm.after(1.0)
    for _ in range(1000):
        alarm = alarm.after(0.0)
    assert alarm.is_raised
    assert alarm.e_value < 1


def test_restarts_spend_delta_once_more_in_all() -> None:
    alarm = ErrorAlarm(max_error=0.05, delta=0.05)
    assert alarm.level == 0.05
    levels = []
    for _ in range(1000):
        alarm = alarm.restarted()
        levels.append(alarm.level)
    assert levels == sorted(levels, reverse=True)
    assert sum(levels) <= 0.05
    assert alarm.e_value == pytest.approx(1.0)


def test_unequal_audit_rates_keep_the_mean_at_one() -> None:
    # Audited at 2 % and 10 %: the weight of the second is a fifth. At the limit a bet must not win on average.
    for weight in (1.0, 0.2):
        right = ErrorAlarm(max_error=0.05, delta=0.05).after(0.0, weight=weight)
        wrong = ErrorAlarm(max_error=0.05, delta=0.05).after(1.0, weight=weight)
        for low, high in zip(right.log_wealth, wrong.log_wealth, strict=True):
            assert 0.95 * math.exp(low) + 0.05 * math.exp(high) == pytest.approx(1.0)


@pytest.mark.parametrize(("loss", "weight"), [(1.5, 1.0), (-0.1, 1.0), (0.0, 0.0), (0.0, 1.5)])
def test_out_of_range_is_refused(loss: float, weight: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        ErrorAlarm(max_error=0.05, delta=0.05).after(loss, weight=weight)
