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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from edge_agent.cancellation import Cancellation
from edge_agent.errors import (
    EdgeError,
    InputError,
)
from edge_agent.flow import Answer, Request
from edge_agent.http_api.asking import Answering, Asking, ClosingStream, watch_disconnect
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
from edge_agent.http_api.doorkeeper import LOOPBACK_NAMES, Doorkeeper
from edge_agent.http_api.problems import answer_api_error, answer_not_found, translate
from edge_agent.metrics import CONTENT_TYPE, Metrics
from partition.generation.stop_strings import StopStrings
from partition.task import TaskKind
from protos.request_id import new_request_id

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

T = TypeVar("T")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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
            ApiError: answer_api_error,
            404: answer_not_found,
            405: answer_not_found,
        },
    )
    return Doorkeeper(app, settings.allowed_hosts)


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
        self._asking = Asking(
            agent, max_requests=settings.max_requests, max_waiting=settings.max_waiting
        )
        self._started_unix_s = int(time.time())

    async def complete(self, http: HttpRequest) -> Response:
        """Answer a chat request."""
        request_id = _request_id(http)
        body = await self._read(http)
        task = find_task(body.model, self._tasks, self._default_task)
        request = body.to_request(request_id, task)
        self._asking.check_room()
        limit = request.max_output_tokens or task.limits.max_output_tokens
        completion = Completion(
            request_id=request_id,
            model=body.model,
            created=int(time.time()),
            max_output_tokens=limit if task.kind is TaskKind.GENERATE else None,
        )
        if body.stream:
            return await self._stream(http, request, body, completion)
        answer = await self._asking.ask(http, request)
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
            raise translate(error) from None
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
            raise translate(error) from None
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
            raise translate(error) from None

    # --- answering

    async def _stream(
        self, http: HttpRequest, request: Request, body: ChatBody, completion: Completion
    ) -> Response:
        """Begin to answer; an error before the first text still gets its own status."""
        cancel = Cancellation()
        pieces = self._asking.pieces(request, cancel)
        watch = asyncio.ensure_future(watch_disconnect(http, cancel))
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        finally:
            watch.cancel()  # from here on the response itself notices
        return ClosingStream(
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


def _request_id(http: HttpRequest) -> str:
    given = http.headers.get("idempotency-key") or http.headers.get("x-request-id")
    if given is None:
        return new_request_id()
    if not _REQUEST_ID.fullmatch(given):
        raise ApiError(
            400, "a request id has 1 to 128 visible ASCII characters; correct the header"
        )
    return given
