"""What OpenAI clients send and get: bodies of ``/v1/chat/completions``, checked on the way in, built on the way out.

Unknown fields are ignored, as OpenAI does; known ones that cannot be honoured are refused in words. No message repeats input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.flow import Answer, Request, Route
from partition.task import Message, Role, Task

MODEL = "tandem"  # the default task; "tandem:<task>" or "<task>" names another
MAX_STOPS = 16
Json = dict[str, Any]


class ApiError(Exception):
    """An error in OpenAI's form; the message is one sentence without input."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> Json:
        """The JSON that tells of it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)


class _TextPart(_Body):
    type: Literal["text"]
    text: str


class _MessageBody(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[_TextPart, ...] | None = None
    tool_calls: tuple[Any, ...] | None = None

    def to_message(self) -> Message:
        content = self.content or ""
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return Message(role=_ROLES[self.role], text=text)


_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}


class _StreamOptions(_Body):
    include_usage: bool = False


class _ResponseFormat(_Body):
    type: str = "text"


class _Extension(_Body):
    language: Literal["en", "pt", "zh"] | None = None


class ChatBody(_Body):
    """The body of ``POST /v1/chat/completions``."""

    model: Annotated[str, Field(max_length=128)] = MODEL
    messages: Annotated[tuple[_MessageBody, ...], Field(min_length=1, max_length=1000)]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(gt=0, le=32_768)] | None = None
    max_completion_tokens: Annotated[int, Field(gt=0, le=32_768)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(max_length=256)]
        | Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=MAX_STOPS)]
        | None
    ) = None
    n: int | None = 1
    tools: tuple[Any, ...] | None = None
    functions: tuple[Any, ...] | None = None
    logprobs: bool | None = None
    response_format: _ResponseFormat | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tandem: _Extension | None = None

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream shall end with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def to_request(self, request_id: str, task: Task) -> Request:
        """Make the device's own request.

        Raises:
            ApiError: Something is asked that this endpoint does not do.
        """
        self._refuse_unsupported()
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return Request(
            id=request_id,
            task=task.name,
            messages=tuple(message.to_message() for message in self.messages),
            language=self.tandem.language if self.tandem is not None else None,
            max_output_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature or 0.0,  # ours is greedy where OpenAI's default is 1
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=(self.seed or 0) & (2**64 - 1),
            stop=tuple(text for text in stop if text),
        )

    def _refuse_unsupported(self) -> None:
        unsupported = {
            "n": (self.n not in (None, 1), "only n = 1 is supported; send several requests"),
            "tools": (bool(self.tools), "tools are not supported; leave them out"),
            "functions": (bool(self.functions), "functions are not supported; leave them out"),
            "logprobs": (bool(self.logprobs), "logprobs are not supported; leave them out"),
            "response_format": (
                self.response_format is not None and self.response_format.type != "text",
                "only the response format `text` is supported",
            ),
            "frequency_penalty": (
                bool(self.frequency_penalty),
                "penalties are not supported; leave them out",
            ),
            "presence_penalty": (
                bool(self.presence_penalty),
                "penalties are not supported; leave them out",
            ),
            "messages": (
                any(message.tool_calls for message in self.messages),
                "messages with tool calls are not supported; send their text only",
            ),
        }
        for param, (is_asked, message) in unsupported.items():
            if is_asked:
                raise ApiError(400, message, param=param, code="unsupported_parameter")


def parse_chat(body: bytes) -> ChatBody:
    """Check a body.

    Raises:
        ApiError: It is no JSON, or a field is missing or wrong; names the field, never its value.
    """
    try:
        return ChatBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "the body is no valid JSON; correct it") from None
        param = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, f"{param}: {first['msg']}", param=param) from None


def find_task(model: str, tasks: Mapping[str, Task], default_task: str) -> Task:
    """Find the task that a model name stands for.

    Raises:
        ApiError: None does; the message lists what does.
    """
    name = default_task if model == MODEL else model.removeprefix(f"{MODEL}:")
    if name not in tasks:
        known = ", ".join((MODEL, *sorted(tasks)))
        raise ApiError(
            404,
            f"there is no such model; ask for one of: {known}",
            param="model",
            code="model_not_found",
        )
    return tasks[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer to be, in OpenAI's words: what all its chunks have in common."""

    request_id: str
    model: str  # as the caller named it
    created: int  # Unix seconds
    max_output_tokens: int | None = None

    def whole(self, answer: Answer, text: str) -> Json:
        """The body of an answer that is not streamed."""
        refusal = answer.reason if answer.route is Route.REFUSED else None
        message = {
            "role": "assistant",
            "content": None if refusal else text,
            "refusal": refusal,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish_reason(answer),
        }
        return {
            **self._head("chat.completion", answer),
            "choices": [choice],
            "usage": usage_of(answer),
            "tandem": extension_of(answer),
        }

    def chunk(self, delta: Json) -> Json:
        """One piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head("chat.completion.chunk", None), "choices": [choice]}

    def last_chunk(self, answer: Answer) -> Json:
        """The piece that ends the text, with the extension."""
        delta = {"refusal": answer.reason} if answer.route is Route.REFUSED else {}
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": self._finish_reason(answer),
        }
        return {
            **self._head("chat.completion.chunk", answer),
            "choices": [choice],
            "tandem": extension_of(answer),
        }

    def usage_chunk(self, answer: Answer) -> Json:
        """The piece after the last one, for who asked for it."""
        return {
            **self._head("chat.completion.chunk", answer),
            "choices": [],
            "usage": usage_of(answer),
        }

    def _head(self, kind: str, answer: Answer | None) -> Json:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": answer.model if answer is not None else None,
        }

    def _finish_reason(self, answer: Answer) -> str:
        if answer.route is Route.REFUSED:
            return "content_filter"
        limit = self.max_output_tokens
        return "length" if limit is not None and answer.usage.output_tokens >= limit else "stop"


def usage_of(answer: Answer) -> Json:
    """What an answer took, in OpenAI's words."""
    usage = answer.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def extension_of(answer: Answer) -> Json:
    """What OpenAI has no words for."""
    return {
        "request_id": answer.request_id,
        "route": answer.route.value,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "flagged": answer.flagged,
        "model": answer.model,
        "sent_bytes": answer.sent_bytes,
        "num_replaced": {entity.value: number for entity, number in answer.num_replaced.items()},
        "num_unknown_surrogates": answer.num_unknown_surrogates,
        "cost_micro_usd": answer.usage.cost_micro_usd,
        "latency_ms": dict(answer.latency_ms),
    }


def event_of(document: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"
