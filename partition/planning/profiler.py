"""Measure a model on this machine, in a few seconds, through the interface that generation itself uses.

A layer's prefill is fitted as ``a + b S + c S^2``, a decoded position at context L as ``a + b L``, a verification of
gamma drafts as ``A + B gamma``; each by least squares of the relative errors with coefficients that are not negative.
Times are medians of warm runs. Whether something else ran meanwhile is told from the spread: idle machines repeat.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partition.planning.profile import Compute
from partition.stages.stage import Floats, Stage

PREFILL_TOKENS = (16, 64, 128, 256)
CONTEXTS = (32, 256)
DRAFTS = (0, 1, 3, 7)
BUSY_SPREAD = 0.25  # of a median, above which something else was running
_SESSION = "profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the profiler cannot see through the stage."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    layer_bytes: int = 0  # weights of one layer
    head_bytes: int = 0  # weights that the last position meets behind the layers
    ends_bytes: int = 0  # embedding and head together
    kv_bytes: int = 0
    workspace_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a model takes, and how far the runs differed."""

    compute: Compute
    spread: float  # largest (p90 - median) / median of what was measured

    @property
    def was_idle(self) -> bool:
        """Whether the runs repeated so well that nothing else ran."""
        return self.spread <= BUSY_SPREAD


class Profiler:
    """Measures one whole stage or one without a head. Not thread-safe; its session is its own.

    Args:
        stage: What to measure. Its layers are all of ``sizes.num_layers``.
        sizes: Of the model.
        clock: Monotonic seconds.
        num_runs: Timed runs of each point, after one that is not.
        max_tokens: Longest prompt to try, within the stage's context.
        on_progress: Gets the share done, in (0, 1].
    """

    def __init__(
        self,
        stage: Stage,
        sizes: Sizes,
        *,
        clock: Callable[[], float],
        num_runs: int = 5,
        max_tokens: int = 512,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._stage = stage
        self._sizes = sizes
        self._clock = clock
        self._num_runs = num_runs
        self._lengths = tuple(n for n in PREFILL_TOKENS if n <= max_tokens)
        self._contexts = tuple(n for n in CONTEXTS if n + max(DRAFTS) + 1 <= max_tokens)
        self._on_progress = on_progress
        self._random = np.random.default_rng(0)  # new ids for every run: no prefix cache helps
        self._spread = 0.0
        self._num_done = 0

    def measure(self, model: str, *, queue_s: float = 0.0) -> Measurement:
        """Measure a stage that takes token ids and gives logits."""
        decode = [self._time(1, context) for context in self._contexts]
        # Decode reads every weight once, so its time divides as the bytes do; no run could separate the head so well.
        sizes = self._sizes
        all_bytes = sizes.head_bytes + sizes.num_layers * sizes.layer_bytes
        ends_s = min(decode) * sizes.head_bytes / max(all_bytes, 1)
        prefill = [max(1e-9, self._time(n, 0) - ends_s) for n in self._lengths]
        verify = [self._time(1 + n, self._contexts[-1], all_rows=True) for n in DRAFTS]
        return self._result(
            model,
            prefill=prefill,
            decode=[max(1e-9, seconds - ends_s) for seconds in decode],
            ends_s=ends_s,
            verify=verify,
            queue_s=queue_s,
        )

    def measure_layers(self, model: str, *, num_layers: int) -> Measurement:
        """Measure a first stage of ``num_layers`` layers without a head: what a device runs of a split."""
        prefill = [self._time(n, 0) for n in self._lengths]
        decode = [self._time(1, context) for context in self._contexts]
        return self._result(model, prefill=prefill, decode=decode, share=num_layers)

    def _result(
        self,
        model: str,
        *,
        prefill: Sequence[float],
        decode: Sequence[float],
        ends_s: float = 0.0,
        verify: Sequence[float] = (),
        queue_s: float = 0.0,
        share: int | None = None,
    ) -> Measurement:
        sizes = self._sizes
        layers = share or sizes.num_layers
        a, b, c = fit_polynomial(self._lengths, [t / layers for t in prefill], degree=2)
        d, e = fit_polynomial(self._contexts, [t / layers for t in decode], degree=1)
        line = fit_polynomial(DRAFTS, verify, degree=1) if verify else None
        return Measurement(
            compute=Compute(
                model=model,
                num_layers=sizes.num_layers,
                hidden_size=sizes.hidden_size,
                layer_prefill_s=(a, b, c),
                layer_decode_s=(d, e),
                ends_s=ends_s,
                verify_s=None if line is None else (line[0], line[1]),
                queue_s=queue_s,
                layer_bytes=sizes.layer_bytes,
                ends_bytes=sizes.ends_bytes,
                kv_bytes=sizes.kv_bytes,
                workspace_bytes=sizes.workspace_bytes,
            ),
            spread=self._spread,
        )

    def _time(self, num_new: int, context: int, *, all_rows: bool = False) -> float:
        """Median seconds of extending a session of ``context`` positions by ``num_new``."""
        rows: npt.NDArray[np.int64] | None = None
        if all_rows:
            rows = np.arange(num_new, dtype=np.int64)
        if context:
            self._stage.extend(_SESSION, self._ids(context), base_len=0)
        times = []
        for run in range(self._num_runs + 1):
            ids = self._ids(num_new)
            start = self._clock()
            self._stage.extend(_SESSION, ids, base_len=context, rows=rows)
            elapsed = self._clock() - start
            if run:
                times.append(max(elapsed, 1e-9))
        self._stage.forget(_SESSION)
        median = statistics.median(times)
        slow = sorted(times)[-max(1, len(times) // 10 + 1)]
        self._spread = max(self._spread, slow / median - 1)
        self._num_done += 1
        total = len(self._contexts) + len(self._lengths) + len(DRAFTS)
        self._on_progress(min(1.0, self._num_done / total))
        return median

    def _ids(self, count: int) -> npt.NDArray[np.int32] | Floats:
        return self._random.integers(1, self._sizes.vocab_size, count).astype(np.int32)


def fit_polynomial(x: Sequence[float], y: Sequence[float], *, degree: int) -> tuple[float, ...]:
    """Fit ``y`` by a polynomial of ``x`` with no negative coefficient, least squares of the relative errors.

    Of all subsets of terms whose plain least-squares fit is not negative, the one with the least error: exact for the few
    terms there are. One point, or one distinct x, gives a constant.

    Args:
        x: Where it was measured.
        y: Positive values.
        degree: Highest power.

    Returns:
        Coefficients from the constant up, ``degree + 1`` of them.
    """
    powers = np.vander(np.asarray(x, float), degree + 1, increasing=True)
    values = np.asarray(y, float)
    scaled = powers / values[:, None]
    best: tuple[float, tuple[float, ...]] | None = None
    for count in range(1, min(degree + 1, len(set(x))) + 1):
        for terms in itertools.combinations(range(degree + 1), count):
            solution = np.linalg.lstsq(scaled[:, terms], np.ones(len(values)), rcond=None)[0]
            if (solution < 0).any():
                continue
            error = float(np.square(scaled[:, terms] @ solution - 1).sum())
            if best is None or error < best[0] - 1e-12:
                whole = np.zeros(degree + 1)
                whole[list(terms)] = solution
                best = error, tuple(float(value) for value in whole)
    assert best is not None  # a constant alone is never negative
    return best[1]
