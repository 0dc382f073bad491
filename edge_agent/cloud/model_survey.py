"""Measures the cloud's model from here: frames of random ids and rows, whose replies say what the cloud took.

Nothing of any request goes this way. Times are the server's own, so the link does not matter; queueing is part of them.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_agent.cloud.frame_channel import FrameChannel
from edge_agent.cloud.session_cloud import opening_of
from partition.extend.activations import Codec, encode
from partition.extend.frame_messages import Opening
from partition.extend.frames import (
    PREFIX_KEY_BYTES,
    Extend,
    Extended,
    prefix_hash,
    row_hashes,
)
from partition.extend.model_card import ModelCard
from partition.generation.sampling import SamplingRule
from partition.planning.profile import Compute
from partition.planning.profiler import fit_polynomial
from protos.errors import UnavailableError

PREFILLS = (16, 64, 128, 256)
CONTEXTS = (32, 256)
DRAFTS = (0, 1, 3, 7)
ENOUGH_S = 4.0  # spent on one point; a slow cloud is measured once, a fast one NUM_RUNS times
NUM_RUNS = 3  # besides one that warms up
FRAME_TIMEOUT_S = 120.0
_LAST_ROWS = 8  # of the tail's own measurement


@dataclass(frozen=True, slots=True)
class _Step:
    """One frame of a measured session."""

    num_positions: int
    num_drafts: int = 0


class ModelSurvey:
    """Measures one model. Not thread-safe.

    Args:
        open_channel: Opens a session.
        card: The model.
        clock: Monotonic seconds, for the time spent.
        on_progress: Gets the share done, in (0, 1].
    """

    def __init__(
        self,
        open_channel: Callable[[Opening], FrameChannel],
        card: ModelCard,
        *,
        clock: Callable[[], float],
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._open = open_channel
        self._card = card
        self._clock = clock
        self._on_progress = on_progress
        self._random = np.random.default_rng(0)
        self._num_done = 0

    def measure(self) -> Compute:
        """Measure prefill, decode, verification, and the head by itself.

        Raises:
            WireError: The cloud keeps no sessions, or cannot be reached.
        """
        layers = self._card.num_layers
        decode = [self._time(_Step(context), _Step(1)) for context in CONTEXTS]
        # One layer and the head: what is left of a whole pass divides among the other layers.
        tail_s = self._time(_Step(_LAST_ROWS), _Step(1), stage_start=layers - 1)
        layer_s = max(0.0, min(decode) - tail_s) / max(1, layers - 1)
        ends_s = max(0.0, tail_s - layer_s)
        prefill = [self._time(_Step(count)) for count in PREFILLS]
        verify = [self._time(_Step(200), _Step(1 + drafts, drafts)) for drafts in DRAFTS]

        def share(seconds: float) -> float:
            return max(1e-9, seconds - ends_s) / layers

        a, b, c = fit_polynomial(PREFILLS, [share(seconds) for seconds in prefill], degree=2)
        d, e = fit_polynomial(CONTEXTS, [share(seconds) for seconds in decode], degree=1)
        base, slope = fit_polynomial(DRAFTS, verify, degree=1)
        return Compute(
            model=self._card.name,
            num_layers=layers,
            hidden_size=self._card.hidden_size,
            layer_prefill_s=(a, b, c),
            layer_decode_s=(d, e),
            ends_s=ends_s,
            verify_s=(base, slope),
        )

    def _time(self, *steps: _Step, stage_start: int = 0) -> float:
        """Median of the server's seconds for the last of some frames, over fresh sessions."""
        times: list[float] = []
        started = self._clock()
        while len(times) <= NUM_RUNS and (not times or self._clock() - started < ENOUGH_S):
            times.append(self._session(steps, stage_start))
        self._num_done += 1
        self._on_progress(self._num_done / (len(CONTEXTS) + 1 + len(PREFILLS) + len(DRAFTS)))
        return statistics.median(times[1:] or times)

    def _session(self, steps: tuple[_Step, ...], stage_start: int) -> float:
        key = secrets.token_bytes(PREFIX_KEY_BYTES)
        codec = Codec.FLOAT32 if stage_start else None
        opening = opening_of(
            self._card,
            SamplingRule(),
            stage_start=stage_start,
            codec=codec,
            prefix_key=b"" if stage_start else key,
        )
        channel = self._open(opening)
        try:
            ids: list[int] = []
            seconds = 0.0
            for number, step in enumerate(steps, start=1):
                count = step.num_positions
                fresh = self._random.integers(0, self._card.vocabulary_size, count).tolist()
                frame = Extend(
                    round=number,
                    base_len=len(ids),
                    prefix_hash=_prefix_of(key, ids, is_split=stage_start > 0),
                    ids=() if stage_start else tuple(fresh),
                    activations=self._rows(count) if stage_start else b"",
                    num_positions=count,
                    draft_len=step.num_drafts,
                    row_hashes=row_hashes(key, [*ids, *fresh], len(ids)) if stage_start else (),
                )
                channel.send(frame)
                reply = channel.receive(FRAME_TIMEOUT_S)
                if not isinstance(reply, Extended):
                    raise UnavailableError(
                        "the cloud did not take part in being measured; try again"
                    )
                seconds = (reply.compute_us + reply.queue_us) / 1e6
                ids = [*ids, *fresh][: reply.len_after]
            return seconds
        finally:
            channel.close()

    def _rows(self, count: int) -> bytes:
        rows = self._random.standard_normal((count, self._card.hidden_size)).astype(np.float32)
        return encode(rows, Codec.FLOAT32)


def _prefix_of(key: bytes, ids: list[int], *, is_split: bool) -> bytes:
    if not is_split:
        return prefix_hash(key, ids)
    return row_hashes(key, ids, len(ids) - 1)[0] if ids else bytes(8)
