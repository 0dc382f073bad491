"""The command's work: one line out for each line in, in order, whatever is in it.

    IN   {"id", "text", "language"?}
    OUT  {"id", "text", "spans": [{"start", "end", "entity", "surrogate"}]}  or  {"id", "error"}

Offsets are code points into the input text; ``text`` is the input with every span replaced. A line that fails has no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.errors import AnonymizationError
from edge_agent.vault import Vault

MAX_LINE_BYTES = 16 << 20  # more is no note; JSON may escape each of its characters in six bytes


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, strict=True)

    id: Annotated[str, Field(max_length=512)] | int
    text: str
    language: str | None = None


class _Identity(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, strict=True)

    id: Annotated[str, Field(max_length=512)] | int


@dataclass(frozen=True, slots=True)
class LineResult:
    """What becomes of one line."""

    line: str  # JSON, without its line break
    failed: bool


def anonymize_jsonl(
    lines: Iterable[bytes],
    anonymizer: Anonymizer,
    *,
    language: str | None = None,
    report: Callable[[int], None] | None = None,
) -> Iterator[LineResult]:
    """Anonymize JSON lines.

    Args:
        lines: As they stand in the file, with or without line breaks.
        anonymizer: Does the work.
        language: ``en``, ``pt`` or ``zh`` for every line that does not name its own; None: found out.
        report: Called with the number of bytes of each line that is done.
    """
    for number, raw in enumerate(lines, start=1):
        yield _one(raw, number, anonymizer, language)
        if report is not None:
            report(len(raw))


def _one(raw: bytes, number: int, anonymizer: Anonymizer, language: str | None) -> LineResult:
    if len(raw) > MAX_LINE_BYTES:
        return _failure(
            number,
            None,
            f"line {number} has more than {MAX_LINE_BYTES >> 20} MiB; send the text in parts",
        )
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return _failure(number, None, f"line {number} is no JSON in UTF-8; correct it")
    try:
        line = _Line.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part in _Line.model_fields) or "line"
        return _failure(
            number,
            _identity(document),
            f"line {number}, key {key!r}: expected an object with a string id and a string text",
        )
    vault = Vault()
    try:
        outcome = anonymizer.replace((line.text,), vault, language=line.language or language)
    except AnonymizationError as error:
        return _failure(number, line.id, str(error))
    finally:
        vault.wipe()
    spans = [
        {"start": r.start, "end": r.end, "entity": r.entity.value, "surrogate": r.surrogate}
        for r in outcome.replacements[0]
    ]
    # ASCII escapes, so that a lone surrogate code point survives as it came.
    return LineResult(
        json.dumps({"id": line.id, "text": outcome.texts[0], "spans": spans}), failed=False
    )


def _failure(number: int, identity: str | int | None, message: str) -> LineResult:
    return LineResult(
        json.dumps({"id": number if identity is None else identity, "error": message}), failed=True
    )


def _identity(document: object) -> str | int | None:
    try:
        return _Identity.model_validate(document).id
    except ValidationError:
        return None
