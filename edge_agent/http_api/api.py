"""The device's HTTP face, for any OpenAI client on the same machine.

    POST   /v1/chat/completions        stream or not; model "tandem", "tandem:<task>" or "<task>"
    GET    /v1/chat/completions/<id>   the better answer of a QUEUED request, once it has come; repeatable
    DELETE /v1/chat/completions/<id>   forget it
    GET    /v1/models, /v1/models/<id>, /healthz, /metrics

There is no login: who may connect may ask. So it binds to loopback, and a web page in a browser of this machine is kept out by
the checks of Host, Origin and content type.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.cancellation import Cancellation
from edge_agent.errors import (
    EdgeError,
    InputError,
    OutboxError,
    OutboxFullError,
    RequestStoppedError,
)
from edge_agent.flow import Answer, Request
from edge_agent.http_api.bodies import (
    LAST_EVENT,
    MODEL,
    ApiError,
    ChatBody,
    Completion,
    event_of,
    find_task,
    parse_chat,
)
from edge_agent.metrics import CONTENT_TYPE, Metrics
from partition.errors import ContextLengthError, PartitionError
from partition.generation.stop_strings import StopStrings
from partition.task import Task, TaskKind
from protos.errors import InvalidRequestError, WireError
from protos.request_id import new_request_id

if TYPE_CHECKING:
    from edge_agent.agent import Status

logger = logging.getLogger(__name__)

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
STREAM_PIECES = (
    64  # between the agent's thread and a slow reader; the agent waits when they are full
)
T = TypeVar("T")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Who may ask, how much, and how many at once."""

    allowed_hosts: tuple[str, ...] = LOOPBACK_NAMES  # names without port, as the client writes them
    max_body_bytes: int = 4 * 1024 * 1024
    max_requests: int = 32  # answered at a time
    max_waiting: int = 128  # the next one is told to come back


def create_app(
    agent: Answering, *, default_task: str, metrics: Metrics, settings: HttpSettings | None = None
) -> ASGIApp:
    """Make the ASGI application of one agent; owns nothing, starts nothing."""
    settings = settings or HttpSettings()
    endpoints = _Endpoints(agent, default_task, metrics, settings)
    app = Starlette(
        routes=[
            Path("/v1/chat/completions", endpoints.complete, methods=["POST"]),
            Path("/v1/chat/completions/{id}", endpoints.retrieve, methods=["GET"]),
            Path("/v1/chat/completions/{id}", endpoints.delete, methods=["DELETE"]),
            Path("/v1/models", endpoints.list_models, methods=["GET"]),
            Path("/v1/models/{model}", endpoints.get_model, methods=["GET"]),
            Path("/healthz", endpoints.healthz, methods=["GET"]),
            Path("/metrics", endpoints.metrics, methods=["GET"]),
        ],
        exception_handlers={
            ApiError: _answer_api_error,
            404: _answer_not_found,
            405: _answer_not_found,
        },
    )
    return _Doorkeeper(app, settings.allowed_hosts)


class _Doorkeeper:
    """Refuses what a web page could send: a name that was rebound to this machine, a foreign origin."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"]]
            hosts = [value for name, value in headers if name == b"host"]
            origins = [value for name, value in headers if name == b"origin"]
            if len(hosts) != 1 or not self._is_allowed(hosts[0]):
                error = ApiError(
                    403,
                    "this Host is not served; use a loopback address, or list it in allowed_hosts",
                )
                await _json(error)(scope, receive, send)
                return
            if any(not self._is_allowed(origin.partition(b"://")[2]) for origin in origins):
                error = ApiError(
                    403, "pages of this Origin may not ask; list its host in allowed_hosts"
                )
                await _json(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, host: bytes) -> bool:
        name = re.sub(r":\d{1,5}\Z", "", host.decode("latin-1").lower())
        return name in self._allowed


class _Endpoints:
    """One agent's endpoints. Everything slow runs in worker threads; the loop only passes things on."""

    def __init__(
        self, agent: Answering, default_task: str, metrics: Metrics, settings: HttpSettings
    ) -> None:
        self._agent = agent
        self._tasks = {task.name: task for task in agent.tasks}
        self._default_task = default_task
        self._metrics = metrics
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(settings.max_requests)
        self._num_open = 0
        self._started_unix_s = int(time.time())

    async def complete(self, http: HttpRequest) -> Response:
        """Answer a chat request."""
        request_id = _request_id(http)
        body = await self._read(http)
        task = find_task(body.model, self._tasks, self._default_task)
        request = body.to_request(request_id, task)
        if self._num_open >= self._settings.max_requests + self._settings.max_waiting:
            raise ApiError(
                429,
                "too many requests wait already; try again later",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=1.0,
            )
        limit = request.max_output_tokens or task.limits.max_output_tokens
        completion = Completion(
            request_id=request_id,
            model=body.model,
            created=int(time.time()),
            max_output_tokens=limit if task.kind is TaskKind.GENERATE else None,
        )
        if body.stream:
            return await self._stream(http, request, body, completion)
        answer = await self._ask(http, request)
        stops = StopStrings(request.stop)
        text = stops.add(answer.text) + stops.finish()
        return JSONResponse(completion.whole(answer, text), headers={"x-request-id": request_id})

    async def retrieve(self, http: HttpRequest) -> Response:
        """Hand out the better answer of a queued request; it stays until it is deleted."""
        request_id = http.path_params["id"].removeprefix("chatcmpl-")
        try:
            answer = await self._in_thread(lambda: self._agent.collect(request_id, keep=True))
        except InputError as error:
            raise ApiError(404, str(error), code="not_found") from None
        except EdgeError as error:
            raise _translate(error) from None
        if answer is None:
            raise ApiError(
                404,
                "the answer is still to come; ask again later",
                code="answer_pending",
                retry_after_s=5.0,
            )
        completion = Completion(request_id=request_id, model=MODEL, created=int(time.time()))
        return JSONResponse(completion.whole(answer, answer.text))

    async def delete(self, http: HttpRequest) -> Response:
        """Forget a queued request or its late answer."""
        request_id = http.path_params["id"].removeprefix("chatcmpl-")
        try:
            found = await self._in_thread(lambda: self._agent.forget(request_id))
        except EdgeError as error:
            raise _translate(error) from None
        if not found:
            raise ApiError(404, "no request of this id waits here", code="not_found")
        return JSONResponse(
            {
                "id": f"chatcmpl-{request_id}",
                "object": "chat.completion.deleted",
                "deleted": True,
            }
        )

    async def list_models(self, _http: HttpRequest) -> Response:
        """List the names that may stand in ``model``."""
        names = (MODEL, *sorted(self._tasks))
        return JSONResponse({"object": "list", "data": [self._model(name) for name in names]})

    async def get_model(self, http: HttpRequest) -> Response:
        """Describe one of them."""
        name = http.path_params["model"]
        find_task(name, self._tasks, self._default_task)
        return JSONResponse(self._model(name))

    async def healthz(self, _http: HttpRequest) -> Response:
        """Say whether requests can be answered."""
        try:
            status = await self._in_thread(self._agent.status)
        except EdgeError as error:
            return JSONResponse({"status": "failing", "reason": str(error)}, status_code=503)
        return JSONResponse(
            {
                "status": "ok",
                "model": status.model,
                "cloud": status.cloud,
                "queued": status.queued,
                "dead": status.dead,
            }
        )

    async def metrics(self, _http: HttpRequest) -> Response:
        """Count everything, for Prometheus."""

        def render() -> bytes:
            self._agent.status()  # looks into the outbox, which sets its gauges
            return self._metrics.render()

        try:
            return Response(await self._in_thread(render), media_type=CONTENT_TYPE)
        except EdgeError as error:
            raise _translate(error) from None

    # --- answering

    async def _ask(self, http: HttpRequest, request: Request) -> Answer:
        """Ask in a worker thread, and cancel when the caller hangs up."""
        cancel = Cancellation()
        watch = asyncio.ensure_future(_watch_disconnect(http, cancel))
        self._num_open += 1
        try:
            return await anyio.to_thread.run_sync(
                lambda: self._agent.ask(request, cancel=cancel), limiter=self._limiter
            )
        except Exception as error:
            raise _translate(error) from None
        finally:
            self._num_open -= 1
            watch.cancel()

    async def _stream(
        self, http: HttpRequest, request: Request, body: ChatBody, completion: Completion
    ) -> Response:
        """Begin to answer; an error before the first text still gets its own status."""
        cancel = Cancellation()
        pieces = self._pieces(request, cancel)
        watch = asyncio.ensure_future(_watch_disconnect(http, cancel))
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        finally:
            watch.cancel()  # from here on the response itself notices
        return _ClosingStream(
            self._events(first, pieces, body, completion, StopStrings(request.stop)),
            pieces.aclose,
            headers={
                "x-request-id": request.id,
                "cache-control": "no-store",
                "x-accel-buffering": "no",
            },
        )

    async def _events(
        self,
        first: str | Answer,
        pieces: AsyncIterator[str | Answer],
        body: ChatBody,
        completion: Completion,
        stops: StopStrings,
    ) -> AsyncIterator[bytes]:
        yield event_of(completion.chunk({"role": "assistant", "content": ""}))
        piece: str | Answer = first
        try:
            while not isinstance(piece, Answer):
                if text := stops.add(piece):
                    yield event_of(completion.chunk({"content": text}))
                piece = await anext(pieces)
        except ApiError as error:  # too late for a status of its own
            yield event_of(error.body)
            return
        if text := stops.finish():
            yield event_of(completion.chunk({"content": text}))
        yield event_of(completion.last_chunk(piece))
        if body.wants_usage_chunk:
            yield event_of(completion.usage_chunk(piece))
        yield LAST_EVENT

    async def _pieces(
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
            raise _translate(error) from None
        finally:
            self._num_open -= 1
            cancel.set()
            receive.close()  # wakes a worker that waits for room
            with anyio.CancelScope(shield=True):
                await asyncio.wait([worker])
            if not worker.cancelled():
                worker.exception()  # seen: it was raised above, or nobody waits for it any more

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work)

    async def _read(self, http: HttpRequest) -> ChatBody:
        """Read the body up to the limit, and check it."""
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # any other a web page may send without asking first
            raise ApiError(415, "send JSON, with content-type application/json")
        limit = self._settings.max_body_bytes
        too_large = ApiError(
            413, f"the body has more than {limit} bytes; send less", code="too_large"
        )
        declared = http.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        content = bytearray()
        try:
            async for piece in http.stream():
                content += piece
                if len(content) > limit:
                    raise too_large
        except ClientDisconnect:
            raise ApiError(499, "the caller hung up") from None
        return await self._in_thread(lambda: parse_chat(bytes(content)))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started_unix_s,
            "owned_by": "tandem",
        }


class _ClosingStream(StreamingResponse):
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
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_source()


async def _watch_disconnect(http: HttpRequest, cancel: Cancellation) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        continue
    cancel.set()


def _request_id(http: HttpRequest) -> str:
    given = http.headers.get("idempotency-key") or http.headers.get("x-request-id")
    if given is None:
        return new_request_id()
    if not _REQUEST_ID.fullmatch(given):
        raise ApiError(
            400, "a request id has 1 to 128 visible ASCII characters; correct the header"
        )
    return given


def _translate(error: Exception) -> ApiError:
    """Say in OpenAI's form what went wrong; nothing of an unexpected error but its name and place is logged."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return ApiError(400, str(error), code="context_length_exceeded")
        case InputError():
            return ApiError(400, str(error))
        case RequestStoppedError():
            return ApiError(499, "the caller hung up", kind="server_error")
        case OutboxFullError():
            return ApiError(
                503, str(error), kind="server_error", code="outbox_full", retry_after_s=60.0
            )
        case InvalidRequestError():
            return ApiError(400, str(error))
        case WireError():  # the cloud refuses this request for good
            return ApiError(502, str(error), kind="server_error", code=error.reason.lower())
        case OutboxError() | EdgeError() | PartitionError():
            return ApiError(503, str(error), kind="server_error")
        case _:
            place = "".join(traceback.format_tb(error.__traceback__))  # code only, no values
            logger.error("a request failed: %s\n%s", type(error).__name__, place)
            return ApiError(500, "the agent failed; see its log", kind="server_error")


def _json(error: ApiError) -> JSONResponse:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = f"{error.retry_after_s:.0f}"
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _answer_api_error(_http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error)


async def _answer_not_found(_http: HttpRequest, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _json(ApiError(status, "there is nothing here; see /v1/models for what can be asked"))
