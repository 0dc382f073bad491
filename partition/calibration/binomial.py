"""Exact tails for counts of errors: p-values, bounds, and how many labels a claim takes.

Counts are whole numbers throughout; no rate is ever turned back into a count. Needs scipy, which only calibration has.
"""

from __future__ import annotations

import math

from scipy.special import bdtr, betaincinv

_POWER = 0.8  # "probably" in "this many more labels would probably certify"
_MAX_ERRORS = 1_000_000  # where the search for a number of labels gives up


def p_value(errors: int, n: int, max_error: float) -> float:
    """Probability of at most ``errors`` errors in ``n`` answers whose true error rate is ``max_error``.

    Certify iff it is at most delta. 1 when there are no answers.
    """
    if errors >= n:
        return 1.0
    return float(bdtr(float(errors), n, max_error))


def upper_bound(errors: int, n: int, delta: float) -> float:
    """One-sided Clopper-Pearson bound; at most ``max_error`` exactly when the p-value is at most ``delta``."""
    if errors >= n:
        return 1.0
    return float(betaincinv(errors + 1, n - errors, 1.0 - delta))


def share_interval(count: int, n: int, delta: float = 0.05) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of a share, each side at ``delta / 2``."""
    if n == 0:
        return 0.0, 1.0
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, delta / 2))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1.0 - delta / 2))
    return low, high


def bounded_p_value(total_loss: float, n: int, max_error: float) -> float:
    """Hoeffding-Bentkus p-value for losses in [0, 1] (arXiv 2110.01052), from their sum.

    Coarser than :func:`p_value`, which holds for losses of 0 and 1 only.
    """
    if n == 0:
        return 1.0
    mean = min(total_loss / n, max_error)
    hoeffding = math.exp(-n * _divergence(mean, max_error))
    bentkus = math.e * p_value(math.ceil(total_loss), n, max_error)
    return min(1.0, hoeffding, bentkus)


def bounded_upper_bound(total_loss: float, n: int, delta: float) -> float:
    """Least error rate that :func:`bounded_p_value` rejects at ``delta``; 1 when it rejects none."""
    low, high = (total_loss / n if n else 1.0), 1.0
    if n == 0 or bounded_p_value(total_loss, n, 1.0 - 1e-12) > delta:
        return 1.0
    for _ in range(60):  # halvings: beyond the precision of a double
        middle = (low + high) / 2
        if bounded_p_value(total_loss, n, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def max_passing_errors(n: int, max_error: float, delta: float) -> int:
    """Most errors with which ``n`` answers still certify; -1 when not even none would do."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if p_value(middle, n, max_error) <= delta:
            low = middle
        else:
            high = middle
    return low


def least_passing_labels(errors: int, max_error: float, delta: float) -> int:
    """Smallest number of answers that certifies with ``errors`` errors among them."""
    low, high = errors, 2 * errors + 2
    while p_value(errors, high, max_error) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if p_value(errors, middle, max_error) <= delta:
            high = middle
        else:
            low = middle
    return high


def labels_for_power(true_error: float, max_error: float, delta: float) -> int | None:
    """Number of accepted labels from which on a certificate has a probability of at least 80 %.

    Returns:
        None when the true error is not below ``max_error``, or so close that no sensible number of labels would do.
    """
    if true_error >= max_error:
        return None

    def worst_power(errors: int) -> float:
        # Power saw-tooths: it falls with n until one error more is allowed.
        last = least_passing_labels(errors + 1, max_error, delta) - 1
        return float(bdtr(float(errors), last, true_error))

    low, high = -1, 1
    while worst_power(high) < _POWER:
        low, high = high, 2 * high
        if high > _MAX_ERRORS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if worst_power(middle) < _POWER:
            low = middle
        else:
            high = middle
    return least_passing_labels(high, max_error, delta)


def _divergence(x: float, y: float) -> float:
    """Kullback-Leibler divergence between two coins, nats."""
    first = x * math.log(x / y) if x > 0 else 0.0
    second = (1 - x) * math.log((1 - x) / (1 - y)) if x < 1 else 0.0
    return first + second
