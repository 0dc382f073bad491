"""The lines that ``edge-agent run`` reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.errors import InputError
from edge_agent.flow import Answer, Entity, KnownValue, Request
from partition.task import Message, Role
from protos.request_id import new_request_id

MAX_LINE_BYTES = 16 * 1024 * 1024


class _MessageLine(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    role: Role
    content: str | None = None
    text: str | None = None

    def to_message(self) -> Message:
        return Message(
            role=self.role, text=self.content if self.content is not None else self.text or ""
        )


class RequestLine(BaseModel):
    """One line of input; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    id: Annotated[str, Field(max_length=256)] | int
    task: str | None = None
    text: str | None = None
    messages: tuple[_MessageLine, ...] = ()
    dicom: Path | None = None
    known: dict[Entity, tuple[str, ...]] = Field(default_factory=dict)
    language: str | None = None
    label: str | None = None  # the truth, where it is known; only `--record` looks at it

    def to_request(self, task: str, folder: Path) -> Request:
        """Make the request; a relative DICOM path is relative to the input file."""
        return Request(
            id=new_request_id(),
            reference=str(self.id),
            task=self.task or task,
            text=self.text,
            messages=tuple(message.to_message() for message in self.messages),
            dicom=folder / self.dicom if self.dicom is not None else None,
            known=tuple(
                KnownValue(entity=entity, value=value)
                for entity, values in self.known.items()
                for value in values
            ),
            language=self.language,
        )


def parse_line(raw: bytes, number: int) -> RequestLine:
    """Read one line.

    Raises:
        InputError: It is no JSON object with an id; the message names the line and the key, never a value.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"line {number}: longer than {MAX_LINE_BYTES} bytes; split it")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):  # of which UnicodeDecodeError is one
        raise InputError(f"line {number}: no valid JSON in UTF-8; correct it") from None
    try:
        return RequestLine.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "line"
        raise InputError(f"line {number}, key {key!r}: {first['msg']}") from None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, bytes) of each line that is not blank; memory holds one line."""
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 2), b""), start=1):
            if raw.strip():
                yield number, raw


def answer_line(reference: str | int | None, answer: Answer) -> dict[str, Any]:
    """Make the output line of an answer."""
    line: dict[str, Any] = {
        "id": reference,
        "answer": answer.text,
        "route": answer.route.value,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "model": answer.model,
        "latency_ms": dict(answer.latency_ms),
        "usage": {
            "input_tokens": answer.usage.input_tokens,
            "output_tokens": answer.usage.output_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "cost_micro_usd": answer.usage.cost_micro_usd,
        },
        "sent_bytes": answer.sent_bytes,
        "replaced": {entity.value: number for entity, number in answer.num_replaced.items()},
        "request_id": answer.request_id,
    }
    if answer.num_unknown_surrogates:
        line["unknown_surrogates"] = answer.num_unknown_surrogates
    if answer.flagged:
        line["flagged"] = True
    return line


def to_bytes(line: dict[str, Any]) -> bytes:
    """Encode one output line; a lone surrogate code point of the input's id becomes ``?``."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def error_line(reference: str | int | None, sentence: str) -> dict[str, Any]:
    """Make the output line of a request that got no answer."""
    return {"id": reference, "error": sentence}
