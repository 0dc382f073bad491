"""Requests put to the agent in worker threads, on behalf of callers who may hang up at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from edge_agent.cancellation import Cancellation
from edge_agent.errors import RequestStoppedError
from edge_agent.flow import Answer, Request
from edge_agent.http_api.bodies import ApiError
from edge_agent.http_api.problems import translate
from partition.task import Task

if TYPE_CHECKING:
    from edge_agent.agent import Status

STREAM_PIECES = (
    64  # between the agent's thread and a slow reader; the agent waits when they are full
)


class Answering(Protocol):
    """What the endpoints need of an agent. Thread-safe."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task it knows."""

    def ask(
        self,
        question: Request | str,
        *,
        on_text: Callable[[str], None] | None = None,
        cancel: Cancellation | None = None,
    ) -> Answer:
        """Answer one request; ``on_text`` gets the restored text as it comes, what it raises ends the request."""

    def collect(self, request_id: str, *, keep: bool = False) -> Answer | None:
        """Return the late answer of a queued request; None while there is none."""

    def forget(self, request_id: str) -> bool:
        """Delete a queued request or its late answer; False when there is none."""

    def status(self) -> Status:
        """Describe what runs, without content."""


class Asking:
    """At most so many requests at a time, and so many that wait for their turn."""

    def __init__(self, agent: Answering, *, max_requests: int, max_waiting: int) -> None:
        self._agent = agent
        self._limiter = anyio.CapacityLimiter(max_requests)
        self._max_open = max_requests + max_waiting
        self._num_open = 0

    def check_room(self) -> None:
        """See whether one more may wait.

        Raises:
            ApiError: Too many do.
        """
        if self._num_open >= self._max_open:
            raise ApiError(
                429,
                "too many requests wait already; try again later",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=1.0,
            )

    async def ask(self, http: HttpRequest, request: Request) -> Answer:
        """Ask in a worker thread, and cancel when the caller hangs up."""
        cancel = Cancellation()
        watch = asyncio.ensure_future(watch_disconnect(http, cancel))
        self._num_open += 1
        try:
            return await anyio.to_thread.run_sync(
                lambda: self._agent.ask(request, cancel=cancel), limiter=self._limiter
            )
        except Exception as error:
            raise translate(error) from None
        finally:
            self._num_open -= 1
            watch.cancel()

    async def pieces(
        self, request: Request, cancel: Cancellation
    ) -> AsyncGenerator[str | Answer, None]:
        """Ask in a worker thread; yield its texts, then the answer. Closing it cancels the request and waits for its end."""
        send, receive = anyio.create_memory_object_stream[str | Answer](STREAM_PIECES)

        def on_text(text: str) -> None:
            try:
                if not cancel.is_set():
                    anyio.from_thread.run(send.send, text)
                    return
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # nobody reads any more
            raise RequestStoppedError("the caller hung up")

        async def work() -> None:
            async with send:
                answer = await anyio.to_thread.run_sync(
                    lambda: self._agent.ask(request, on_text=on_text, cancel=cancel),
                    limiter=self._limiter,
                )
                await send.send(answer)

        self._num_open += 1
        worker = asyncio.ensure_future(work())
        try:
            async with receive:
                async for piece in receive:
                    yield piece
            await worker
        except Exception as error:
            raise translate(error) from None
        finally:
            self._num_open -= 1
            cancel.set()
            receive.close()  # wakes a worker that waits for room
            with anyio.CancelScope(shield=True):
                await asyncio.wait([worker])
            if not worker.cancelled():
                worker.exception()  # seen: it was raised above, or nobody waits for it any more


class ClosingStream(StreamingResponse):
    """A stream of events that closes its source also when the reader hangs up before the first one."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], Any],
        headers: dict[str, str],
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._close_source = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, then close their source, whatever happens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_source()


async def watch_disconnect(http: HttpRequest, cancel: Cancellation) -> None:
    """Cancel when the caller hangs up; runs until then, or until it is itself cancelled."""
    while (await http.receive())["type"] != "http.disconnect":
        continue
    cancel.set()
