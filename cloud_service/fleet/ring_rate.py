"""How fast a ring opens: so many devices a minute, more each minute, up to a limit. The shape is that of AWS IoT Jobs.

A bad release that fails within minutes is then stopped by its first devices, while most of the ring has not begun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ALL = 10**9  # more devices than any channel has


@dataclass(frozen=True, slots=True, kw_only=True)
class RingRate:
    """Devices that may begin in each minute of a ring."""

    base_per_minute: float  # in the first minute
    increment_factor: float = 1.0  # from one minute to the next, at least 1
    max_per_minute: float = 1e6

    def opened(self, elapsed_s: float) -> int:
        """Return how many devices may have begun after so long; the first minute's at once."""
        total, rate = 0.0, self.base_per_minute
        for _ in range(1 + int(max(0.0, elapsed_s) // 60)):
            total += min(rate, self.max_per_minute)
            rate *= self.increment_factor
            if total >= _ALL:
                return _ALL
        return math.ceil(total)


def buckets_open(
    rate: RingRate | None, elapsed_s: float, *, ring: int, before: int, places: Sequence[int]
) -> int:
    """Return how many buckets of a ring are open by now.

    Args:
        rate: Of the policy; None: the whole ring at once.
        elapsed_s: Since the ring began.
        ring: Buckets of the whole ring.
        before: Buckets of the ring before.
        places: The bucket of every device that is known; those nobody knows come as their bucket opens.
    """
    inside = sorted(place for place in places if before <= place < ring)
    if rate is None or not inside:
        return ring
    allowed = rate.opened(elapsed_s)
    return ring if allowed >= len(inside) else max(before, inside[allowed])
