"""VERIFY on the engine: one frame of a session is one extension of its sequence, beside everybody else's."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_service.engine.batching import BatchingEngine
from cloud_service.engine.job import JobEnd
from cloud_service.engine.sequence import Owner, Rows, Sequence
from partition.frames import Extended, Work
from partition.sampling import SamplingRule, choose
from partition.verify import VerifyingSession
from protos.errors import (
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    UnavailableError,
    WireError,
)


class EngineSession:
    """One session's sequence in the engine. Its frames come one after the other.

    The sequence may lose its memory, or be lost altogether: it is computed again from the session's ids.
    """

    def __init__(
        self,
        engine: BatchingEngine,
        verifying: VerifyingSession,
        *,
        tenant: str,
        sampling: SamplingRule,
    ) -> None:
        self._engine = engine
        self._verifying = verifying
        self._sampling = sampling
        now_s = time.monotonic()
        self._owner = Owner(tenant=tenant, deadline_s=now_s, arrived_s=now_s)
        self._program = _FrameProgram(verifying, sampling, self._owner)
        self._sequence: Sequence | None = None  # of the engine's thread

    def start(
        self, work: Work, *, deadline_s: float, on_done: Callable[[Extended | WireError], None]
    ) -> None:
        """Extend by one frame; ``on_done`` is called on the engine's thread, once.

        Raises:
            UnavailableError: The engine is closed.
        """
        self._engine.call(lambda: self._extend(work, deadline_s, on_done))

    def close(self) -> None:
        """Give the memory back; a frame that runs ends with RequestCancelledError."""
        self._owner.is_wanted = False
        try:
            self._engine.call(lambda: None)  # the sweep that follows drops the sequence
        except UnavailableError:
            return  # the engine has dropped everything

    def _extend(
        self, work: Work, deadline_s: float, on_done: Callable[[Extended | WireError], None]
    ) -> None:
        owner, program = self._owner, self._program
        owner.deadline_s = deadline_s
        owner.arrived_s, owner.first_step_s, owner.compute_s = time.monotonic(), None, 0.0
        program.begin(work, on_done)
        ids = tuple(int(token) for token in work.ids)
        num_rows = work.frame.draft_len + 1
        if self._sequence is None or not self._engine.holds(self._sequence):
            before = self._verifying.ids[: work.crop_to]
            self._sequence = self._engine.add_sequence(owner, program, before + ids, num_rows)
        else:
            self._engine.extend(self._sequence, work.crop_to, ids, num_rows)


class _FrameProgram:
    """Chooses the verifier's tokens of one frame at a time, then parks; see :class:`Program`."""

    def __init__(self, verifying: VerifyingSession, sampling: SamplingRule, owner: Owner) -> None:
        self._verifying = verifying
        self._sampling = sampling
        self._owner = owner
        self._work: Work | None = None
        self._on_done: Callable[[Extended | WireError], None] | None = None

    def begin(self, work: Work, on_done: Callable[[Extended | WireError], None]) -> None:
        """Expect the rows of a frame."""
        self._work, self._on_done = work, on_done

    def on_rows(self, rows: Rows) -> None:
        """See :class:`Program`."""
        work, owner = self._work, self._owner
        assert work is not None
        # Row i stands at the position before the one it chooses.
        first = work.crop_to + len(work.ids) - work.frame.draft_len
        if self._sampling.temperature == 0:
            targets = list(rows.greedy_ids)
        else:
            logits = rows.logits.float().cpu().numpy()
            targets = [
                choose(row, self._sampling, position=first + at) for at, row in enumerate(logits)
            ]
        waited_s = 0.0 if owner.first_step_s is None else owner.first_step_s - owner.arrived_s
        reply = self._verifying.settle(
            work,
            targets,
            compute_us=round(owner.compute_s * 1e6),
            queue_us=round(waited_s * 1e6),
        )
        self._finish(reply)

    def on_end(self, end: JobEnd) -> None:
        """See :class:`Program`."""
        self._finish(_ERRORS.get(end, _ERRORS[JobEnd.FAILED])())

    def _finish(self, result: Extended | WireError) -> None:
        on_done, self._on_done, self._work = self._on_done, None, None
        if on_done is not None:
            on_done(result)


_ERRORS: dict[JobEnd, Callable[[], WireError]] = {
    JobEnd.CANCELLED: lambda: RequestCancelledError("the session was closed"),
    JobEnd.DEADLINE: lambda: DeadlineExceededError("the frame's deadline passed; send it again"),
    JobEnd.CLOSED: lambda: UnavailableError("this server is shutting down", retry_after_s=1.0),
    JobEnd.FAILED: lambda: InternalError("the model failed on this frame; send the text instead"),
}
