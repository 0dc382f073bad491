"""Exact tails against published numbers, and against each other."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.calibration.binomial import (
    bounded_p_value,
    bounded_upper_bound,
    labels_for_power,
    least_passing_labels,
    max_passing_errors,
    p_value,
    share_interval,
    upper_bound,
)


@pytest.mark.parametrize(
    ("errors", "n", "p", "upper"),
    [
        (0, 59, 0.04849, 0.04951),
        (0, 58, 0.05105, 0.05034),
        (4, 200, 0.02645, 0.04518),
        (12, 240, 0.57599, 0.07975),
        (38, 1000, 0.04335, 0.04951),
        (39, 1000, 0.05981, 0.05063),
    ],
)
def test_published_values(errors: int, n: int, p: float, upper: float) -> None:
    assert p_value(errors, n, 0.05) == pytest.approx(p, abs=5e-6)
    assert upper_bound(errors, n, 0.05) == pytest.approx(upper, abs=5e-6)


def test_published_values_at_ten_percent() -> None:
    assert p_value(12, 240, 0.10) == pytest.approx(0.00382, abs=5e-6)


def test_p_value_is_the_exact_sum() -> None:
    rate = Fraction(1, 20)
    exact = sum(comb(200, k) * rate**k * (1 - rate) ** (200 - k) for k in range(5))
    assert p_value(4, 200, 0.05) == pytest.approx(float(exact), rel=1e-12)


@given(st.integers(1, 3000), st.data(), st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.2]))
def test_bound_and_p_value_agree(n: int, data: st.DataObject, max_error: float) -> None:
    errors = data.draw(st.integers(0, n))
    for delta in (0.05, 0.0125):
        passes = p_value(errors, n, max_error) <= delta
        bound = upper_bound(errors, n, delta)
        assert passes == (bound <= max_error) or bound == pytest.approx(max_error, abs=1e-9)


def test_nothing_accepted_proves_nothing() -> None:
    assert p_value(0, 0, 0.05) == bounded_p_value(0.0, 0, 0.05) == 1.0
    assert upper_bound(0, 0, 0.05) == bounded_upper_bound(0.0, 0, 0.05) == 1.0
    assert p_value(5, 5, 0.05) == upper_bound(5, 5, 0.05) == 1.0


def test_hoeffding_bentkus_published_values() -> None:
    assert bounded_p_value(4.0, 200, 0.05) == pytest.approx(0.07189, abs=5e-6)
    assert bounded_p_value(0.0, 100, 0.05) == pytest.approx(0.00592, abs=5e-6)


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.05, 0.0125]))
def test_hoeffding_bentkus_bound_is_where_rejection_begins(
    n: int, rate: float, delta: float
) -> None:
    bound = bounded_upper_bound(rate * n, n, delta)
    assert rate <= bound + 1e-9
    if bound < 1.0:
        assert bounded_p_value(rate * n, n, bound) <= delta
        assert bounded_p_value(rate * n, n, bound - 1e-6) > delta * (1 - 1e-3)


@pytest.mark.parametrize(
    ("max_error", "delta", "expected"),
    [
        (0.05, 0.05, [59, 93, 124, 153, 181, 208, 234, 260]),
        (0.10, 0.05, [29, 46, 61, 76, 89, 103, 116, 129]),
        (0.02, 0.05, [149, 236, 313, 386, 456]),
        (0.01, 0.05, [299, 473, 628, 773]),
        (0.05, 0.0125, [86, 125, 160, 192]),
    ],
)
def test_least_labels_for_each_number_of_errors(
    max_error: float, delta: float, expected: list[int]
) -> None:
    assert [
        least_passing_labels(errors, max_error, delta) for errors in range(len(expected))
    ] == expected


def test_most_errors_for_each_number_of_labels() -> None:
    sizes = (58, 100, 200, 300, 500, 1000, 2000, 5000)
    assert [max_passing_errors(n, 0.05, 0.05) for n in sizes] == [-1, 1, 4, 8, 16, 38, 83, 224]
    assert [max_passing_errors(n, 0.10, 0.05) for n in (240, 300, 1000)] == [16, 21, 84]


def test_labels_for_eighty_percent_power() -> None:
    at_five = [labels_for_power(rate, 0.05, 0.05) for rate in (0.01, 0.02, 0.03, 0.04)]
    assert at_five == [124, 286, 694, 2869]
    assert [labels_for_power(rate, 0.10, 0.05) for rate in (0.03, 0.05, 0.07)] == [89, 203, 593]
    assert labels_for_power(0.05, 0.05, 0.05) is None
    assert labels_for_power(0.0, 0.05, 0.05) == 59


def test_share_interval_contains_the_share() -> None:
    low, high = share_interval(30, 100)
    assert (low, high) == (pytest.approx(0.2124, abs=1e-4), pytest.approx(0.3998, abs=1e-4))
    assert share_interval(0, 10)[0] == 0.0
    assert share_interval(10, 10)[1] == 1.0
    assert share_interval(0, 0) == (0.0, 1.0)
