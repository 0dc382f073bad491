"""What every call passes through, whatever it asks: metrics and log > errors > drain; a trace goes round them all.

Its deadline, who calls, and how much they may, come after these: :mod:`cloud_service.rpc.deadlines`,
:mod:`cloud_service.rpc.access`.
Each guard is a coroutine round the next one, and they are strung together once for each method; :class:`GuardInterceptor` is
the one place that knows the four arities of gRPC. Deduplication of request ids is not here: it shares a transaction with its effect
(:mod:`cloud_service.storage.dedupe`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from cloud_service.logs import Event
from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Answer, Call, Guard, enter_call
from protos.errors import (
    DETAILS_KEY,
    DrainingError,
    InternalError,
    InvalidRequestError,
    WireError,
    to_status,
)
from protos.tracing import are_made, continued_span

logger = logging.getLogger(__name__)

DRAIN_RETRY_S: Final = 1.0
_RETRY_HEADER: Final = "grpc-previous-rpc-attempts"


class Malformed:
    """Stands for a message that cannot be parsed, on its way from the deserializer to the guards."""


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler in the guards, the first one outermost."""

    def __init__(self, guards: Sequence[Guard], metrics: Metrics) -> None:
        self._guards = tuple(guards)
        self._metrics = metrics
        self._received = metrics.rpc_bytes.labels("received")
        self._sent = metrics.rpc_bytes.labels("sent")
        self._wrapped: dict[
            str, tuple[Any, Any]
        ] = {}  # of each method: its handler, bare and wrapped

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        for key, _ in handler_call_details.invocation_metadata or ():
            if key == _RETRY_HEADER:
                self._metrics.rpc_retries.inc()
        bare, wrapped = self._wrapped.get(handler_call_details.method, (None, None))
        if bare is not handler:
            service, _, method = handler_call_details.method.removeprefix("/").rpartition("/")
            wrapped = self._wrap(handler, service, method)
            self._wrapped[handler_call_details.method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Any, service: str, method: str) -> Any:
        streams = "stream" if handler.request_streaming else "unary"
        name = f"{streams}_{'stream' if handler.response_streaming else 'unary'}"
        inner = getattr(handler, name)
        checked = _checked_each if handler.request_streaming else _checked
        if handler.response_streaming and inspect.isasyncgenfunction(inner):

            async def answer(call: Call) -> Any:
                # Written, not yielded: a cancellation then arrives inside this block, in this task. A generator
                # that grpc.aio drops is closed later, by another task.
                context = call.context
                async with contextlib.aclosing(inner(checked(call.request), context)) as responses:
                    async for response in responses:
                        await context.write(response)

        else:

            async def answer(call: Call) -> Any:
                return await inner(checked(call.request), call.context)

        guarded: Answer = answer
        for guard in reversed(self._guards):
            guarded = functools.partial(_guarded, guard, guarded)

        async def behaviour(request: Any, context: Any) -> Any:
            call = Call(
                service=service,
                method=method,
                context=context,
                request=request,
                task=asyncio.current_task(),
            )
            enter_call(call)
            try:
                return await guarded(call)
            finally:
                # The task's context knows the call: no cycles, and none round gRPC's own objects (grpc #43421).
                call.request = call.task = None

        make = getattr(grpc, f"{name}_rpc_method_handler")
        return make(
            behaviour,
            request_deserializer=self._counting_deserializer(handler.request_deserializer),
            response_serializer=self._counting_serializer(handler.response_serializer),
        )

    def _counting_deserializer(self, inner: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def deserialize(data: bytes) -> Any:
            self._received.inc(len(data))
            try:
                return inner(data)
            except DecodeError:
                return Malformed()

        return deserialize

    def _counting_serializer(self, inner: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        def serialize(message: Any) -> bytes:
            data = inner(message)
            self._sent.inc(len(data))
            return data

        return serialize


def _guarded(guard: Guard, inner: Answer, call: Call) -> Awaitable[Any]:
    return guard(call, inner)


async def traced(call: Call, answer: Answer) -> Any:
    """Go on with the caller's trace, if it has one and spans are made here."""
    if not are_made():
        return await answer(call)
    metadata = call.context.invocation_metadata() or ()
    with continued_span(f"{call.service}/{call.method}", metadata) as span:
        call.span = span
        span.set(rpc__system="grpc", rpc__service=call.service, rpc__method=call.method)
        try:
            return await answer(call)
        finally:
            span.set(rpc__grpc__status_code=call.code.value[0])
            if call.known_identity is not None:
                span.set(tandem__tenant=call.known_identity.tenant)
            if call.request_id:
                span.set(tandem__request_id=call.request_id)
            if call.code is not grpc.StatusCode.OK:
                span.fail(call.code.name)


def observed(metrics: Metrics) -> Guard:
    """Count, time and log each call: ids, lengths and durations, never content."""
    of_method = functools.cache(
        lambda *labels: (metrics.rpc_started.labels(*labels), metrics.rpc_seconds.labels(*labels))
    )
    handled = functools.cache(metrics.rpc_handled.labels)

    async def guard(call: Call, answer: Answer) -> Any:
        started, lengths = of_method(call.service, call.method)
        started.inc()
        try:
            return await answer(call)
        except asyncio.CancelledError:
            call.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            seconds = time.monotonic() - call.started_s
            handled(call.service, call.method, call.code.name).inc()
            lengths.observe(seconds)
            if logger.isEnabledFor(logging.INFO):
                _log(call, seconds)

    return guard


def _log(call: Call, seconds: float) -> None:
    who = call.known_identity
    logger.info(
        Event(
            "call",
            method=call.method,
            code=call.code.name,
            ms=round(seconds * 1000, 1),
            tenant=who.tenant if who else None,
            device=who.device if who else None,
            request=call.request_id or None,
        )
    )


def translated() -> Guard:
    """Turn our errors into rich statuses; anything else is a bug, told without its text."""

    async def guard(call: Call, answer: Answer) -> Any:
        try:
            return await answer(call)
        except WireError as error:
            await _abort(call, error)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            # The outermost boundary of a call. An exception's text may hold content, so only its place is logged.
            logger.error("call method=%s failed: %s", call.method, _place_of(error))
            await _abort(call, InternalError("the cloud failed on this request; report its id"))

    return guard


class RunningCalls:
    """The calls being answered, and whether new ones are let in."""

    def __init__(self) -> None:
        self.is_draining = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def guard(self, call: Call, answer: Answer) -> Any:
        """Keep a list of the tasks; refuse new calls while draining."""
        if self.is_draining and not call.service.startswith("grpc.health."):
            raise DrainingError(
                "this server is shutting down; call again, another one answers",
                retry_after_s=DRAIN_RETRY_S,
            )
        task = call.task
        assert task is not None
        self._tasks.add(task)
        try:
            return await answer(call)
        finally:
            self._tasks.discard(task)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until all have ended, ``finally`` blocks included; False when some still run."""
        # Server.stop() does not wait for the finally blocks of aborted handlers (grpc #37239).
        tasks = set(self._tasks)
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        return not pending


async def _abort(call: Call, error: WireError) -> None:
    call.code = error.code
    status = to_status(error)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await call.context.abort(error.code, status.message, trailing_metadata=details)


def _checked(request: Any) -> Any:
    if isinstance(request, Malformed):
        raise InvalidRequestError("the message cannot be parsed; send what the proto file says")
    return request


async def _checked_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _place_of(error: BaseException) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    code = place.tb_frame.f_code
    return f"{type(error).__name__} at {code.co_qualname}:{place.tb_lineno}"
