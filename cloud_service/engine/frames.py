"""VERIFY and SPLIT on the engine: one frame of a session is one extension of its sequence, beside everybody else's."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from cloud_service.engine.batching import BatchingEngine
from cloud_service.engine.job import JobEnd
from cloud_service.engine.sequence import Owner, Rows, Sequence
from cloud_service.storage.sessions import CloudSide, FrameResult
from partition.extend.frame_messages import Opening
from partition.extend.frames import NeedPrefill, Work
from partition.extend.split import TailSession
from partition.generation.sampling import choose
from protos.errors import (
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    UnavailableError,
    WireError,
)


class EngineSession:
    """One session's sequence in the engine. Its frames come one after the other.

    A sequence of ids that lost its memory is computed again; one of hidden states is asked for again.
    """

    def __init__(
        self, engine: BatchingEngine, side: CloudSide, *, tenant: str, opening: Opening
    ) -> None:
        self._engine = engine
        self._side = side
        self._stage_start = opening.stage_start
        now_s = time.monotonic()
        self._owner = Owner(tenant=tenant, deadline_s=now_s, arrived_s=now_s)
        self._program = _FrameProgram(side, opening, self._owner)
        self._sequence: Sequence | None = None  # of the engine's thread

    def start(
        self,
        work: Work,
        hidden: npt.NDArray[np.float32] | None,
        *,
        deadline_s: float,
        on_done: Callable[[FrameResult], None],
    ) -> None:
        """Extend by one frame; ``on_done`` is called on the engine's thread, once.

        Raises:
            UnavailableError: The engine is closed.
        """
        self._engine.call(
            lambda: self._extend(work, hidden, deadline_s, on_done), lambda: self._sequence
        )

    def close(self) -> None:
        """Give the memory back; a frame that runs ends with RequestCancelledError."""
        self._owner.is_wanted = False
        try:
            self._engine.call(lambda: None)  # the sweep that follows drops the sequence
        except UnavailableError:
            return  # the engine has dropped everything

    def _extend(
        self,
        work: Work,
        hidden: npt.NDArray[np.float32] | None,
        deadline_s: float,
        on_done: Callable[[FrameResult], None],
    ) -> None:
        owner, program = self._owner, self._program
        owner.deadline_s = deadline_s
        owner.arrived_s, owner.first_step_s, owner.compute_s = time.monotonic(), None, 0.0
        is_held = self._sequence is not None and self._engine.holds(self._sequence)
        rows = None if hidden is None else torch.from_numpy(np.array(hidden))
        # The ids of a later stage stay on the device; these only count its positions.
        new = (0,) * work.frame.num_positions if self._stage_start else tuple(map(int, work.ids))
        num_rows = work.frame.draft_len + 1
        if is_held:
            assert self._sequence is not None
            program.begin(work, on_done)
            self._engine.extend(self._sequence, work.crop_to, new, num_rows, hidden=rows)
            return
        if self._sequence is not None:
            self._engine.discard(self._sequence)
        if isinstance(self._side, TailSession):
            if work.crop_to:
                on_done(NeedPrefill(round=work.frame.round, known_len=0))
                return
            before: tuple[int, ...] = ()
        else:
            before = self._side.ids[: work.crop_to]
        program.begin(work, on_done)
        self._sequence = self._engine.add_sequence(
            owner, program, before + new, num_rows, stage_start=self._stage_start, hidden=rows
        )


class _FrameProgram:
    """Chooses the cloud's tokens of one frame at a time, then parks; see :class:`Program`."""

    def __init__(self, side: CloudSide, opening: Opening, owner: Owner) -> None:
        self._side = side
        self._sampling = opening.sampling
        self._owner = owner
        self._work: Work | None = None
        self._on_done: Callable[[FrameResult], None] | None = None

    @property
    def reads_logits(self) -> bool:
        """See :class:`Program`."""
        return self._sampling.temperature != 0

    def begin(self, work: Work, on_done: Callable[[FrameResult], None]) -> None:
        """Expect the rows of a frame."""
        self._work, self._on_done = work, on_done

    def on_rows(self, rows: Rows) -> None:
        """See :class:`Program`."""
        work, owner = self._work, self._owner
        assert work is not None
        if self._sampling.temperature == 0:
            targets = list(rows.greedy_ids)
        else:
            # Row i stands at the position before the one it chooses.
            first = work.crop_to + work.frame.num_positions - work.frame.draft_len
            assert rows.logits is not None
            targets = [
                choose(row, self._sampling, position=first + at)
                for at, row in enumerate(rows.logits)
            ]
        waited_s = 0.0 if owner.first_step_s is None else owner.first_step_s - owner.arrived_s
        compute_us, queue_us = round(owner.compute_s * 1e6), round(waited_s * 1e6)
        if isinstance(self._side, TailSession):
            reply = self._side.settle(work, targets[0], compute_us=compute_us, queue_us=queue_us)
        else:
            reply = self._side.settle(work, targets, compute_us=compute_us, queue_us=queue_us)
        self._finish(reply)

    def on_end(self, end: JobEnd) -> None:
        """See :class:`Program`."""
        if end is JobEnd.LOST and self._work is not None:
            self._finish(NeedPrefill(round=self._work.frame.round, known_len=0))
        else:
            self._finish(_ERRORS.get(end, _ERRORS[JobEnd.FAILED])())

    def _finish(self, result: FrameResult) -> None:
        on_done, self._on_done, self._work = self._on_done, None, None
        if on_done is not None:
            on_done(result)


_ERRORS: dict[JobEnd, Callable[[], WireError]] = {
    JobEnd.CANCELLED: lambda: RequestCancelledError("the session was closed"),
    JobEnd.DEADLINE: lambda: DeadlineExceededError("the frame's deadline passed; send it again"),
    JobEnd.CLOSED: lambda: UnavailableError("this server is shutting down", retry_after_s=1.0),
    JobEnd.FAILED: lambda: InternalError("the model failed on this frame; send the text instead"),
}
