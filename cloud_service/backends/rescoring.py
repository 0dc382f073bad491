"""VERIFY on a server that scores prompts: drafts are sent as if they stood in the prompt, and their ranks read.

A draft stands when it is the likeliest id at its place; the first that is not is replaced by the one that is. So the text is
the server's own greedy text. Nothing is kept here: every frame carries all ids to the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cloud_service.backends.completion_server import CompletionServer
from cloud_service.storage.sessions import FrameResult
from partition.extend.frames import Work
from partition.extend.verify import VerifyingSession
from protos.errors import (
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    WireError,
)


class RescoringRunner:
    """Runs the frames of one session, one after the other; see :class:`FrameRunner`."""

    def __init__(self, server: CompletionServer, side: VerifyingSession) -> None:
        self._server = server
        self._side = side
        self._running: asyncio.Task[FrameResult] | None = None

    def start(
        self,
        work: Work,
        hidden: npt.NDArray[np.float32] | None,
        *,
        deadline_s: float,
        on_done: Callable[[FrameResult], None],
    ) -> None:
        """See :class:`FrameRunner`."""
        assert hidden is None
        task = asyncio.get_running_loop().create_task(self._rescore(work, deadline_s))
        self._running = task

        def tell(done: asyncio.Task[FrameResult]) -> None:
            self._running = None
            if done.cancelled():
                on_done(RequestCancelledError("the session was closed"))
            elif done.exception() is not None:
                on_done(InternalError("the model server failed on this frame; send the text"))
            else:
                on_done(done.result())

        task.add_done_callback(tell)

    def close(self) -> None:
        """See :class:`FrameRunner`."""
        if self._running is not None:
            self._running.cancel()

    async def _rescore(self, work: Work, deadline_s: float) -> FrameResult:
        started_s = time.monotonic()
        frame, timeout_s = work.frame, deadline_s - started_s
        if timeout_s <= 0:
            return DeadlineExceededError("the frame's deadline passed; send it again")
        ids = (*self._side.ids[: work.crop_to], *map(int, work.ids))
        try:
            (score,) = await self._server.score([ids], rows=[frame.draft_len], timeout_s=timeout_s)
        except WireError as error:
            return error
        if score.next_id is None:
            return InternalError("the model server names no next token; send the text instead")
        return self._side.settle(
            work,
            (*score.likeliest_ids, score.next_id),
            compute_us=round((time.monotonic() - started_s) * 1e6),
        )
