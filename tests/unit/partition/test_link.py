"""The link, learnt from frames that a simulated one carried."""

from __future__ import annotations

import numpy as np
import pytest

from partition.planning.link import Average, LinkEstimator, LinkState, probe

GUESS = LinkState(
    round_trip_s=1.0,
    round_trip_p95_s=2.0,
    jitter_s=0.1,
    up_bytes_per_s=1e3,
    down_bytes_per_s=2e3,
)


class SimulatedLink:
    """Carries frames in simulated time."""

    def __init__(self, *, trip_s: float, up: float, down: float, jitter_s: float = 0.0) -> None:
        self.now = 0.0
        self._trip_s, self._up, self._down, self._jitter_s = trip_s, up, down, jitter_s
        self._rng = np.random.default_rng(1)

    def exchange(self, bytes_up: int, bytes_down: int) -> float:
        server_s = 0.007
        trip = self._trip_s + self._jitter_s * self._rng.random()
        self.now += trip + bytes_up / self._up + bytes_down / self._down + server_s
        return server_s

    def clock(self) -> float:
        return self.now


def test_before_any_frame_it_believes_the_start() -> None:
    assert LinkEstimator(GUESS).state == GUESS


@pytest.mark.parametrize("trip_s", [0.0005, 0.02, 0.1])
@pytest.mark.parametrize("rate", [1.25e5, 1.25e6, 1.25e7])
def test_it_learns_the_link_from_ordinary_frames(trip_s: float, rate: float) -> None:
    link = SimulatedLink(trip_s=trip_s, up=rate, down=2 * rate)
    estimator = LinkEstimator(GUESS)
    rng = np.random.default_rng(0)
    for _ in range(300):
        up, down = [(100, 100), (200_000, 100), (100, 200_000)][rng.integers(3)]
        start = link.now
        server = link.exchange(up, down)
        estimator.observe(bytes_up=up, bytes_down=down, elapsed_s=link.now - start, server_s=server)
    state = estimator.state
    small = 100 / rate + 50 / rate  # a small frame's own bytes count towards the round trip
    assert state.round_trip_s == pytest.approx(trip_s + small, rel=0.05)
    assert state.up_bytes_per_s == pytest.approx(rate, rel=0.05)
    assert state.down_bytes_per_s == pytest.approx(2 * rate, rel=0.05)


def test_active_probe() -> None:
    link = SimulatedLink(trip_s=0.05, up=1.25e6, down=2.5e6, jitter_s=0.002)
    state = probe(link.exchange, clock=link.clock)
    assert state.round_trip_s == pytest.approx(0.051, abs=0.001)
    assert state.up_bytes_per_s == pytest.approx(1.25e6, rel=0.02)
    assert state.down_bytes_per_s == pytest.approx(2.5e6, rel=0.02)
    assert 0 < state.jitter_s < 0.002


def test_a_degraded_link_shows_after_a_few_frames() -> None:
    estimator = LinkEstimator(GUESS)
    for _ in range(100):
        estimator.observe(bytes_up=100, bytes_down=100, elapsed_s=0.02)
    for _ in range(2):
        estimator.observe(bytes_up=100, bytes_down=100, elapsed_s=0.6)
    assert estimator.state.round_trip_s < 0.2  # two may be an accident
    estimator.observe(bytes_up=100, bytes_down=100, elapsed_s=0.7)
    assert estimator.state.round_trip_s == pytest.approx(0.6)
    assert estimator.state.round_trip_p95_s == pytest.approx(0.02)


def test_impossible_times_teach_nothing() -> None:
    estimator = LinkEstimator(GUESS)
    estimator.observe(bytes_up=100, bytes_down=100, elapsed_s=0.1, server_s=0.2)
    assert (estimator.state, estimator.num_frames) == (GUESS, 0)


def test_a_fast_large_frame_corrects_the_round_trip() -> None:
    estimator = LinkEstimator(GUESS)
    estimator.observe(bytes_up=100_000, bytes_down=10, elapsed_s=0.3)
    assert estimator.state.round_trip_s == pytest.approx(0.3)


def test_percentile_is_nearest_rank_over_the_last_200() -> None:
    average = Average()
    assert average.percentile(0.95) is None
    for sample in range(1000):
        average.add(float(sample))
    last = sorted(range(800, 1000))
    assert average.percentile(0.95) == last[189]
    assert average.percentile(1.0) == 999
