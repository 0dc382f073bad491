"""Labelled answers: what calibration reads, one JSON object a line.

    {"id": "r-17", "score": 2.31, "correct": true}                                    all that is needed
    {"id": "r-18", "score": 0.4, "loss": 0.25}                                        a graded loss instead
    {..., "task": "cxr-triage", "split": "dev", "cluster": "patient-9", "slices": {"site": "north"},
          "features": {"opt_max": 0.91}, "setup": "64 hex digits", "cloud_correct": true, "probability": 0.93,
          "truth": "normal", "was_learned": true}

``cluster`` joins records that are not independent: near-duplicates, the studies of one patient. Records with the same
``id`` are one cluster as well. No field holds text; ``truth`` is one of the task's labels. ``hidden``, which a label head or a
scorer with a probe is trained on, is a hidden state of the model: it can be turned back into most of the text, so a file with it
is kept and deleted like the requests; so is ``prompt``, the hashed words that a gate is trained on. ``was_learned`` marks a request that the running label head was trained on: it proves
nothing, and calibration leaves it out.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self, TextIO

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from partition.errors import CalibrationError

_MAX_LINE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One local answer and how it turned out."""

    id: str
    score: float  # higher is surer
    loss: float  # 0 right, 1 wrong, or graded between
    task: str = ""
    split: str | None = None  # "dev", "test", or not said
    cluster: str = ""  # empty: on its own
    slices: tuple[tuple[str, str], ...] = ()  # name and value, sorted
    features: tuple[tuple[str, float], ...] = ()
    hidden: tuple[float, ...] = field(default=(), repr=False)  # identifiable; see above
    setup: str = ""  # Setup.sha256 of what answered; empty: unknown
    cloud_correct: bool | None = None
    probability: float | None = None  # that was shown with the answer
    truth: str = ""  # the right label of a classify task; empty: not said
    was_learned: bool = False  # the label head that answered was trained on it
    prompt: tuple[float, ...] = field(default=(), repr=False)  # hashed words; identifiable, too
    line: int = field(default=0, compare=False)  # in its file, from 1

    @property
    def is_right(self) -> bool:
        """Whether the answer has no loss at all."""
        return self.loss == 0.0

    @property
    def cluster_key(self) -> str:
        """Equal for records that must stay together."""
        return f"cluster {self.cluster}" if self.cluster else f"id {self.id}"


def read_records(path: Path) -> tuple[Record, ...]:
    """Read and check a file of records.

    Raises:
        CalibrationError: The file cannot be read, has no record, or a line is wrong; the message names line and key,
            and never a value.
    """
    records = tuple(_read_lines(path))
    if not records:
        raise CalibrationError(f"{path}: no records; write them with `edge-agent run --record`")
    for key in ("task", "split", "setup"):
        without = next((item for item in records if not getattr(item, key)), None)
        some = next((item for item in records if getattr(item, key)), None)
        if without is not None and some is not None:
            raise CalibrationError(
                f"{path}, line {without.line}, key {key!r}: missing here but given in line {some.line}; give it in all lines or in none"
            )
    return records


class RecordWriter:
    """Appends records to a file that only its owner may read. Not thread-safe; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: Record) -> None:
        """Append one record as one line.

        Raises:
            CalibrationError: The writer is not open, or the record's numbers are not finite or out of range.
        """
        if self._file is None:
            raise CalibrationError("the record writer is closed; use it inside a `with` block")
        self._file.write(to_json_line(record))
        self._file.flush()


def to_json_line(record: Record) -> str:
    """One line that :func:`read_records` turns into an equal record.

    Raises:
        CalibrationError: A number is not finite or out of range.
    """
    outcome = {"correct": record.is_right} if record.loss in (0.0, 1.0) else {"loss": record.loss}
    fields = {
        "id": record.id,
        "score": record.score,
        **outcome,
        "task": record.task or None,
        "split": record.split,
        "cluster": record.cluster or None,
        "slices": dict(record.slices),
        "features": dict(record.features),
        "hidden": _encoded(record.hidden) if record.hidden else None,
        "setup": record.setup or None,
        "cloud_correct": record.cloud_correct,
        "probability": record.probability,
        "truth": record.truth or None,
        "was_learned": record.was_learned,
        "prompt": _encoded(record.prompt) if record.prompt else None,
    }
    try:
        line = _RecordLine.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise CalibrationError(
            f"record key {'.'.join(map(str, first['loc']))!r}: {first['msg']}"
        ) from error
    return line.model_dump_json(exclude_none=True, exclude_defaults=True) + "\n"


def cluster_of(text: str, key: bytes) -> str:
    """A cluster name that near-duplicates share: equal but for case, digits, punctuation and spaces.

    Keyed, because a plain digest of a text would let anyone confirm a guess of it.

    Args:
        text: The anonymised text of the request.
        key: A secret of the device, at most 64 bytes.
    """
    letters = re.sub(r"[\W\d_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return hashlib.blake2b(letters.encode(), key=key, digest_size=16).hexdigest()


def _encoded(hidden: tuple[float, ...]) -> str:
    return base64.b64encode(np.array(hidden, dtype="<f4").tobytes()).decode()


def _decoded(hidden: str) -> tuple[float, ...]:
    data = base64.b64decode(hidden, validate=True)  # a ValueError becomes the line's error
    return tuple(np.frombuffer(data, dtype="<f4").tolist())


def _read_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)  # some editors write one
                if line.strip():
                    yield _parse(line, number, path)
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({type(error).__name__}); check the path"
        ) from error


def _parse(line: bytes, number: int, path: Path) -> Record:
    try:
        return _RecordLine.model_validate_json(line).to_record(number)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        keys = [str(part) for part in first["loc"]]
        where = f"key {'.'.join(keys)!r}: " if keys else ""
        message = first["msg"].removeprefix("Value error, ")
        raise CalibrationError(f"{path}, line {number}, {where}{message}") from error


_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=1000)]


class _RecordLine(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    id: str | int
    score: _Finite
    correct: StrictBool | None = None
    loss: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    task: _Name | None = None
    split: Annotated[str, Field(pattern="^(dev|test)$")] | None = None
    cluster: str | int | None = None
    slices: dict[_Name, _Name] = {}
    features: Annotated[dict[_Name, _Finite], Field(max_length=10_000)] = {}
    hidden: Annotated[str, Field(max_length=_MAX_LINE_BYTES)] | None = None  # float32 in base64
    setup: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    cloud_correct: StrictBool | None = None
    probability: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    truth: Annotated[str, Field(max_length=64)] | None = None
    was_learned: StrictBool = False
    prompt: Annotated[str, Field(max_length=_MAX_LINE_BYTES)] | None = None  # float32 in base64

    @field_validator("id")
    @classmethod
    def _is_not_empty(cls, value: str | int) -> str | int:
        if value == "" or isinstance(value, bool):
            raise ValueError("must be a non-empty string")
        return value

    @field_validator("hidden", "prompt")
    @classmethod
    def _is_finite(cls, value: str | None) -> str | None:
        if value is not None and not np.isfinite(_decoded(value)).all():
            raise ValueError("must be finite numbers")
        return value

    @model_validator(mode="after")
    def _has_one_outcome(self) -> Self:
        if self.correct is None and self.loss is None:
            raise ValueError("key 'correct' is missing; set it to true or false")
        if self.correct is not None and self.loss is not None:
            raise ValueError("keys 'correct' and 'loss' are both given; keep one of them")
        return self

    def to_record(self, line: int) -> Record:
        loss = self.loss if self.loss is not None else float(not self.correct)
        return Record(
            id=str(self.id),
            score=self.score,
            loss=loss,
            task=self.task or "",
            split=self.split,
            cluster="" if self.cluster is None else str(self.cluster),
            slices=tuple(sorted(self.slices.items())),
            features=tuple(self.features.items()),
            hidden=_decoded(self.hidden) if self.hidden is not None else (),
            setup=self.setup or "",
            cloud_correct=self.cloud_correct,
            probability=self.probability,
            truth=self.truth or "",
            was_learned=self.was_learned,
            prompt=_decoded(self.prompt) if self.prompt is not None else (),
            line=line,
        )
