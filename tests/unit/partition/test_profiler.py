"""The profiler on a stage in simulated time, whose true costs are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.planning.profiler import BUSY_SPREAD, Profiler, Sizes, fit_polynomial
from partition.stages.stage import Floats, StageOutput

SIZES = Sizes(
    num_layers=10, hidden_size=8, vocab_size=100, layer_bytes=1016, head_bytes=2000, kv_bytes=4
)  # bytes in proportion to the times below


class TimedStage:
    """Takes exactly the time of the cost model; implements the interface of a stage."""

    def __init__(self, *, noise: float = 0.0) -> None:
        self.now = 0.0
        self.lengths: dict[str, int] = {}
        self._random = np.random.default_rng(0)
        self._noise = noise

    def clock(self) -> float:
        return self.now

    def extend(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        assert self.lengths.get(session, 0) >= base_len
        count, num_rows = len(inputs), 1 if rows is None else len(rows)
        if count == 1 or (rows is not None and num_rows == count):
            seconds = 10 * (0.002 + 1e-6 * base_len) + 0.003 * (count - 1)
        else:
            seconds = 10 * (1e-4 + 2e-5 * count + 1e-8 * count**2)
        seconds += 0.004 * min(1, num_rows)
        self.now += seconds * (1 + self._noise * self._random.random())
        self.lengths[session] = base_len + count
        return StageOutput(logits=np.zeros((num_rows, 100), np.float32))

    def rewind(self, session: str, length: int) -> None:
        self.lengths[session] = length

    def length(self, session: str) -> int:
        return self.lengths.get(session, 0)

    def forget(self, session: str) -> None:
        self.lengths.pop(session, None)

    def close(self) -> None:
        self.lengths.clear()


def test_it_finds_the_true_costs() -> None:
    stage = TimedStage()
    shares: list[float] = []
    profiler = Profiler(stage, SIZES, clock=stage.clock, on_progress=shares.append)
    found = profiler.measure("toy", queue_s=0.5)
    compute = found.compute
    assert compute.layer_prefill_s == pytest.approx((1e-4, 2e-5, 1e-8), rel=1e-2)
    assert compute.layer_decode_s == pytest.approx((0.002, 1e-6), rel=1e-3)
    assert compute.ends_s == pytest.approx(0.004)
    assert compute.verify_s == pytest.approx((10 * (0.002 + 256e-6) + 0.004, 0.003), rel=1e-3)
    assert (compute.queue_s, compute.layer_bytes, compute.kv_bytes) == (0.5, 1016, 4)
    assert found.was_idle
    assert stage.lengths == {}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_layers_alone_are_measured_for_a_split() -> None:
    stage = TimedStage()
    found = Profiler(stage, SIZES, clock=stage.clock).measure_layers("toy", num_layers=5)
    assert found.compute.layer_decode_s[0] == pytest.approx(2 * 0.0024, rel=0.01)
    assert found.compute.verify_s is None
    assert found.compute.num_layers == 10


def test_a_busy_machine_is_told_by_its_spread() -> None:
    stage = TimedStage(noise=2.0)
    found = Profiler(stage, SIZES, clock=stage.clock, num_runs=9).measure("toy")
    assert found.spread > BUSY_SPREAD
    assert not found.was_idle


def test_a_short_context_is_respected() -> None:
    stage = TimedStage()
    Profiler(stage, SIZES, clock=stage.clock, max_tokens=64).measure("toy")


coefficient = st.floats(0, 10)


@settings(deadline=None)
@given(coefficient, coefficient, coefficient, st.integers(0, 2**32 - 1))
def test_the_fit_is_scipys_nonnegative_least_squares(
    a: float, b: float, c: float, seed: int
) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="needs the extra `train`")
    x = [1.0, 2.0, 4.0, 7.0]
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, 4)
    y = [float((a + b * v + c * v * v + 0.1) * n) for v, n in zip(x, noise, strict=True)]
    got = fit_polynomial(x, y, degree=2)
    matrix = np.vander(x, 3, increasing=True) / np.asarray(y)[:, None]
    _, residual = optimize.nnls(matrix, np.ones(4))
    assert min(got) >= 0
    assert np.linalg.norm(matrix @ got - 1) == pytest.approx(residual, abs=1e-6)


def test_one_point_is_a_constant() -> None:
    assert fit_polynomial([5], [2.0], degree=1) == pytest.approx((2.0, 0.0))
