"""What the outbox holds: a request that waits for the cloud, outcomes to report, and the answer that came late."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.anonymize.at_rest import seal, unseal
from edge_agent.cloud.cloud import CloudAnswer, GenerateOptions, Outcome
from edge_agent.flow import Entity, Request, Usage
from edge_agent.sealing import SealBrokenError, open_bytes, seal_bytes

_LENGTH_BYTES = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRequest:
    """An anonymised request and how it shall be answered."""

    anonymized: Anonymized
    options: GenerateOptions

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt for the outbox."""
        options = seal_bytes(json.dumps(dataclasses.asdict(self.options)).encode(), key, aad)
        head = len(options).to_bytes(_LENGTH_BYTES) + options
        return head + seal(self.anonymized, key, aad + head)

    @classmethod
    def from_sealed(cls, sealed: bytes, key: bytes, aad: bytes) -> Self:
        """Decrypt what :meth:`to_sealed` made.

        Raises:
            SealBrokenError: Another key or owner, or changed bytes.
            VaultError: The same, of the anonymised part.
        """
        end = _LENGTH_BYTES + int.from_bytes(sealed[:_LENGTH_BYTES])
        options = open_bytes(sealed[_LENGTH_BYTES:end], key, aad)
        return cls(
            anonymized=unseal(sealed[end:], key, aad + sealed[:end]),
            options=_parse(_OPTIONS, options),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedReport:
    """Outcomes that the cloud shall hear of; hold no text of a request."""

    report_id: str
    outcomes: tuple[Outcome, ...]

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt for the outbox."""
        return seal_bytes(json.dumps(dataclasses.asdict(self)).encode(), key, aad)

    @classmethod
    def from_sealed(cls, sealed: bytes, key: bytes, aad: bytes) -> Self:
        """Decrypt what :meth:`to_sealed` made.

        Raises:
            SealBrokenError: Another key or owner, or changed bytes.
        """
        report = _parse(_REPORT, open_bytes(sealed, key, aad))
        return cls(report_id=report.report_id, outcomes=report.outcomes)

    @property
    def content(self) -> bytes:
        """What makes it the same report when it comes again."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class LateAnswer:
    """The cloud's answer to a queued request, not yet restored."""

    text: str = field(repr=False)  # surrogates, not originals
    fingerprint: str
    usage: Usage
    sent_bytes: int
    cloud_ms: float
    num_replaced: Mapping[Entity, int]

    @classmethod
    def of(cls, answer: CloudAnswer, request: QueuedRequest, *, cloud_ms: float) -> Self:
        """Keep what the caller will want of an answer."""
        return cls(
            text=answer.text,
            fingerprint=answer.fingerprint,
            usage=answer.usage,
            sent_bytes=answer.sent_bytes,
            cloud_ms=cloud_ms,
            num_replaced=dict(request.anonymized.num_replaced),
        )

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt for the outbox."""
        return seal_bytes(json.dumps(dataclasses.asdict(self)).encode(), key, aad)

    @classmethod
    def from_sealed(cls, sealed: bytes, key: bytes, aad: bytes) -> Self:
        """Decrypt what :meth:`to_sealed` made.

        Raises:
            SealBrokenError: Another key or owner, or changed bytes.
        """
        answer = _parse(_ANSWER, open_bytes(sealed, key, aad))
        return cls(**{name: getattr(answer, name) for name in type(answer).model_fields})


def content_of(request: Request) -> bytes:
    """Digest what makes a request the same when it comes again; never what the anonymizer made of it.

    Raises:
        OSError: Its DICOM file cannot be read.
    """
    dicom = request.dicom.read_bytes() if isinstance(request.dicom, Path) else request.dicom
    parts: Sequence[object] = (
        request.task,
        request.text,
        [(message.role, message.text) for message in request.messages],
        hashlib.sha256(dicom).hexdigest() if dicom is not None else None,
        request.max_output_tokens,
        request.temperature,
        request.top_p,
        request.seed,
        request.stop,
    )
    return hashlib.sha256(json.dumps(parts).encode()).digest()


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _ReportDocument(_Document):
    report_id: str
    outcomes: tuple[Outcome, ...]


class _AnswerDocument(_Document):
    text: str
    fingerprint: str
    usage: Usage
    sent_bytes: int
    cloud_ms: float
    num_replaced: dict[Entity, int]


_OPTIONS = TypeAdapter(GenerateOptions)
_REPORT = TypeAdapter(_ReportDocument)
_ANSWER = TypeAdapter(_AnswerDocument)


def _parse(adapter: TypeAdapter[T], plain: bytes) -> T:
    try:
        return adapter.validate_json(plain)
    except ValidationError:
        raise SealBrokenError("a stored item is of another version; update the agent") from None
