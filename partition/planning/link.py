"""How fast the way to the cloud is, learnt from real frames and never from ping.

One frame takes R + bytes_up / U + bytes_down / D + the server's own time. A small frame tells R, a large one U or D once
R is known. Each is a moving average with weight 1/8 (as TCP smooths its round trip, RFC 6298) and a p95 of the last 200.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SMALL_BYTES = 2048  # a frame of fewer bytes each way tells the round trip
LARGE_BYTES = (
    16384  # one of more bytes on one way, and few on the other, tells that way's bandwidth
)
WEIGHT = 1 / 8
NUM_KEPT = 200
SHIFT_FACTOR = (
    2.0  # samples beyond this many times the average, or below its inverse, one after the other ...
)
SHIFT_SAMPLES = (
    3  # ... are a new level, which an average of weight 1/8 would take 16 frames to believe
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """The link as the cost model sees it."""

    round_trip_s: float
    round_trip_p95_s: float
    jitter_s: float  # moving mean of |sample - average|
    up_bytes_per_s: float
    down_bytes_per_s: float


class Average:
    """A moving average with the p95 of the last samples."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.deviation = 0.0
        self._last: deque[float] = deque(maxlen=NUM_KEPT)
        self._outside: list[float] = []

    def add(self, sample: float) -> None:
        """Take one sample."""
        self._last.append(sample)
        if self.value is None:
            self.value = sample
            return
        self.deviation += WEIGHT * (abs(sample - self.value) - self.deviation)
        is_outside = not self.value / SHIFT_FACTOR <= sample <= self.value * SHIFT_FACTOR
        self._outside = [*self._outside, sample] if is_outside else []
        if len(self._outside) == SHIFT_SAMPLES:
            self.value = sorted(self._outside)[SHIFT_SAMPLES // 2]
            self._outside = []
        else:
            self.value += WEIGHT * (sample - self.value)

    def percentile(self, share: float) -> float | None:
        """Nearest-rank percentile of the kept samples; None without any."""
        if not self._last:
            return None
        ordered = sorted(self._last)
        return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]


class LinkEstimator:
    """Learns the link from frames as they pass. Not thread-safe.

    Args:
        start: What to believe before any frame: a stored profile, or a guess.
    """

    def __init__(self, start: LinkState) -> None:
        self._start = start
        self._round_trip = Average()
        self._up = Average()
        self._down = Average()
        self.num_frames = 0

    def observe(
        self, *, bytes_up: int, bytes_down: int, elapsed_s: float, server_s: float = 0.0
    ) -> None:
        """Learn from one frame and its reply.

        Args:
            bytes_up: Bytes sent, framing included.
            bytes_down: Bytes received.
            elapsed_s: From the first byte sent to the last one received, on the device's clock.
            server_s: Queue and compute time that the reply reports; one clock never meets the other.
        """
        on_the_way = elapsed_s - server_s
        if on_the_way <= 0:  # the reply's times are wrong: nothing can be learnt
            return
        self.num_frames += 1
        if max(bytes_up, bytes_down) < SMALL_BYTES:
            self._round_trip.add(on_the_way)
            return
        moving = on_the_way - self.state.round_trip_s
        if moving <= 0:
            # Faster than the round trip that we believed: that one is what is wrong.
            self._round_trip.add(on_the_way)
        elif bytes_up >= LARGE_BYTES and bytes_down < SMALL_BYTES:
            self._up.add(moving / bytes_up)
        elif bytes_down >= LARGE_BYTES and bytes_up < SMALL_BYTES:
            self._down.add(moving / bytes_down)

    @property
    def state(self) -> LinkState:
        """What is believed now."""
        # Seconds a byte are averaged, not bytes a second: frames of equal size then weigh alike in time.
        return LinkState(
            round_trip_s=_or(self._round_trip.value, self._start.round_trip_s),
            round_trip_p95_s=_or(self._round_trip.percentile(0.95), self._start.round_trip_p95_s),
            jitter_s=self._round_trip.deviation or self._start.jitter_s,
            up_bytes_per_s=_rate(self._up.value, self._start.up_bytes_per_s),
            down_bytes_per_s=_rate(self._down.value, self._start.down_bytes_per_s),
        )


def probe(
    exchange: Callable[[int, int], float],
    *,
    clock: Callable[[], float],
    num_small: int = 12,
    num_large: int = 3,
    large_bytes: int = 262_144,
) -> LinkState:
    """Measure the link actively: small frames for the round trip, large ones for each way.

    Args:
        exchange: Sends so many bytes, receives so many, returns the server's own seconds.
        clock: Monotonic seconds.
        num_small: Small frames; the first warms the connection up and is not counted.
        num_large: Large frames each way.
        large_bytes: Size of a large frame.
    """
    exchange(64, 64)
    round_trip = Average()
    for _ in range(num_small):
        round_trip.add(_timed(exchange, clock, 64, 64))
    ordered_trip = round_trip.percentile(0.5) or 0.0
    up = min(_timed(exchange, clock, large_bytes, 64) for _ in range(num_large))
    down = min(_timed(exchange, clock, 64, large_bytes) for _ in range(num_large))
    return LinkState(
        round_trip_s=ordered_trip,
        round_trip_p95_s=_or(round_trip.percentile(0.95), ordered_trip),
        jitter_s=round_trip.deviation,
        up_bytes_per_s=large_bytes / max(up - ordered_trip, 1e-6),
        down_bytes_per_s=large_bytes / max(down - ordered_trip, 1e-6),
    )


def _timed(
    exchange: Callable[[int, int], float], clock: Callable[[], float], up: int, down: int
) -> float:
    start = clock()
    server_s = exchange(up, down)
    return max(clock() - start - server_s, 1e-9)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _rate(seconds_per_byte: float | None, otherwise: float) -> float:
    return otherwise if seconds_per_byte is None else 1 / seconds_per_byte
