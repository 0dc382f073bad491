"""SPLIT on the device: run the first layers, send hidden states, take the cloud's token; one round trip for each.

Hidden states are not anonymous. They are computed from anonymised text and are handled as identifiable data: never logged,
never kept. The prompt goes in chunks: the device computes the next one while the last is on its way and in the cloud's
layers. After a lost session the device runs its layers again over the ids it keeps.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge_agent.cloud.frame_channel import FrameChannel
from edge_agent.extend.exchange import PROMPT_TIMEOUT_S, Exchange, OnExchange
from partition.extend.activations import Codec, encode
from partition.extend.fallback import MAX_PREFILLS, Step
from partition.extend.frames import Mismatch
from partition.extend.split import SplittingSession
from partition.stages.stage import Floats, Stage

CHUNK_TOKENS = (
    128  # of the prompt in one frame: short enough to overlap, long enough for the matrix units
)


class SplitEnding(enum.StrEnum):
    """How a SPLIT answer came to its end."""

    COMPLETE = "complete"
    LOST = (
        "lost"  # the way or the session was lost too often; what is there is right, and incomplete
    )
    MISMATCH = "mismatch"  # the two sides do not run the same thing; send text


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """What came of one answer."""

    ending: SplitEnding
    ids: tuple[int, ...] = field(repr=False)
    mismatch: str = ""
    num_frames: int
    seconds: float
    first_token_s: float | None
    sent_bytes: int
    activation_bytes: int


class SplitRun:
    """One answer by SPLIT. Not thread-safe; lives as long as the answer.

    Args:
        session: Positions and ids.
        stage: Layers ``[0, k)`` of the cloud's model, ids in and hidden states out.
        channel: The way to the cloud, open, whose stage is ``[k, n)``.
        codec: How hidden states travel.
        clock: Monotonic seconds.
        name: Of this answer's cache in the stage.
        num_outliers: Entries of a row that travel by themselves; None: the codec's default.
        chunk_tokens: Positions of the prompt in one frame.
        on_ids: Gets each new id as it comes.
        on_exchange: Told of each frame after the prompt, for the live plan.
        prompt_timeout_s: How long to wait for the reply to a part of the prompt.
    """

    def __init__(
        self,
        session: SplittingSession,
        stage: Stage,
        channel: FrameChannel,
        *,
        codec: Codec,
        clock: Callable[[], float],
        name: str,
        num_outliers: int | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        on_ids: Callable[[tuple[int, ...]], None] = lambda ids: None,
        on_exchange: OnExchange = lambda exchanged: None,
        prompt_timeout_s: float = PROMPT_TIMEOUT_S,
    ) -> None:
        self._session = session
        self._stage = stage
        self._exchange = Exchange(
            session,
            channel,
            clock=clock,
            prompt_timeout_s=prompt_timeout_s,
            on_exchange=on_exchange,
        )
        self._codec = codec
        self._clock = clock
        self._name = name
        self._num_outliers = num_outliers
        self._chunk_tokens = chunk_tokens
        self._on_ids = on_ids
        self._ready: tuple[int, bytes, int] | None = None  # first position, frame, positions
        self._num_frames = self._activation_bytes = 0

    def run(self) -> SplitResult:
        """Answer. Raises nothing of the network: a lost way is an ending."""
        started, session = self._clock(), self._session
        first_token_s: float | None = None
        ending = SplitEnding.COMPLETE
        mismatch = ""
        try:
            while not session.is_finished:
                outcome = self._send_rows()
                if isinstance(outcome, Mismatch):
                    ending, mismatch = SplitEnding.MISMATCH, outcome.field
                    break
                if outcome is None or session.num_prefills > MAX_PREFILLS:
                    ending = SplitEnding.LOST
                    break
                if first_token_s is None and session.answer:
                    first_token_s = self._clock() - started
        finally:
            self._stage.forget(self._name)
        return SplitResult(
            ending=ending,
            ids=session.answer,
            mismatch=mismatch,
            num_frames=self._num_frames,
            seconds=self._clock() - started,
            first_token_s=first_token_s,
            sent_bytes=self._exchange.sent_bytes,
            activation_bytes=self._activation_bytes,
        )

    def _send_rows(self) -> Mismatch | bool | None:
        """One frame and its reply; None when it was missed twice."""
        session = self._session
        rows, count = self._rows(session.cloud_len)
        is_prompt = len(session.to_send) > 1
        has_more = len(session.to_send) > count
        following = session.cloud_len + count
        frame = session.open_frame(rows, count)
        self._num_frames += 1
        self._activation_bytes += len(rows)

        def next_chunk() -> None:
            if has_more:
                self._rows(following)

        outcome = self._exchange.carry(frame, is_prompt=is_prompt, meanwhile=next_chunk)
        if isinstance(outcome, Mismatch):
            return outcome
        if isinstance(outcome, Step):
            return None
        if outcome.new_ids:
            self._on_ids(outcome.new_ids)
        return True

    def _rows(self, start: int) -> tuple[bytes, int]:
        """Hidden states of the next positions from ``start`` on, computed once."""
        if self._ready is None or self._ready[0] != start:
            ids = self._session.ids[start : start + self._chunk_tokens]
            hidden = self._hidden(ids, start)
            frame = encode(hidden, self._codec, num_outliers=self._num_outliers)
            self._ready = (start, frame, len(ids))
        return self._ready[1], self._ready[2]

    def _hidden(self, ids: tuple[int, ...], start: int) -> Floats:
        output = self._stage.extend(self._name, np.asarray(ids, np.int32), base_len=start)
        assert output.hidden is not None
        return output.hidden
