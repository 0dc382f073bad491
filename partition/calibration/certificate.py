"""What calibration proves about the local answers of one task, as a file the device checks before it trusts it."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import CalibrationError
from partition.fingerprint import Loss

_FINGERPRINT = r"^[0-9a-f]{64}$"
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
_Errors = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Status(enum.StrEnum):
    """Whether a threshold was proved."""

    CERTIFIED = "certified"
    NOT_CERTIFIED = "not_certified"


class Procedure(enum.StrEnum):
    """How the threshold was found."""

    SPLIT_FIXED_SEQUENCE = (
        "split_fixed_sequence"  # order from dev records, one pass over test records
    )
    SGR = "sgr"  # selection with guaranteed risk: a bisection over test records alone


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierRow:
    """What could be had at another error limit, all rows holding together at the certificate's confidence."""

    max_error: float
    threshold: float | None
    local_share: float
    n: int  # test records at or above the threshold
    errors: float  # among those n; a whole number unless losses are graded
    error_upper_bound: float | None
    delta: float  # what this row alone may fail with


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One part of the records at the certificate's threshold, and whether that part could be certified by itself."""

    slice: str  # "site"
    value: str  # "north"
    num_test: int
    local_share: float
    n: int
    errors: float
    observed_error: float | None
    error_upper_bound: float | None  # describes this slice; the certificate does not promise it
    status: Status  # of the slice by itself, all slices together at the certificate's confidence
    threshold: float | None  # that the slice would need by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """With probability ``confidence`` over the draw of the records, the error among local answers is at most ``max_error``.

    What is promised is ``max_error`` at ``confidence``, for requests like the records, under one fingerprint.
    ``observed_error`` and ``error_upper_bound`` describe the test records and promise nothing of their own.
    """

    status: Status
    threshold: float | None  # scores at or above it stay local; None: nothing may
    local_share: float
    observed_error: float | None
    error_upper_bound: float | None
    max_error: float
    confidence: float
    n: int  # test records at or above the threshold
    fingerprint: str
    frontier: tuple[FrontierRow, ...] = ()
    task: str = ""
    loss: Loss = Loss.ERROR
    bound: bool = False  # False: the records did not say which setup made them, so it covers none
    procedure: Procedure = Procedure.SPLIT_FIXED_SEQUENCE
    errors: float = 0
    num_records: int = 0  # read
    num_dev: int = 0  # used to order the candidates
    num_test: int = 0  # used to prove, one a cluster
    local_share_low: float = 0.0  # 95 % interval of the share (Clopper-Pearson)
    local_share_high: float = 0.0
    labels_needed: int | None = None  # further records that would probably certify; None: see notes
    stricter_thresholds: tuple[
        float, ...
    ] = ()  # also certified, loosest first: where an alarm steps back to
    slices: tuple[SliceRow, ...] = ()
    score_edges: tuple[float, ...] = ()  # of ten bins of equal mass over all test scores
    score_shares: tuple[float, ...] = ()  # in each bin; what later scores are compared with
    notes: tuple[str, ...] = ()  # plain words for the operator

    def covers(self, fingerprint: str) -> bool:
        """Whether this certificate holds for what runs under ``fingerprint``."""
        return (
            self.status is Status.CERTIFIED
            and self.threshold is not None
            and self.bound
            and self.fingerprint == fingerprint
        )

    def accepts(self, score: float) -> bool:
        """Whether a local answer of this score may stand."""
        return self.threshold is not None and score >= self.threshold

    def save(self, path: Path) -> None:
        """Write the certificate as JSON; :meth:`load` gives an equal one."""
        path.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The certificate as indented JSON."""
        return _CertificateFile.model_validate(asdict(self)).model_dump_json(indent=1) + "\n"

    @classmethod
    def load(cls, path: Path, *, task: str | None = None) -> Certificate:
        """Read a certificate.

        Args:
            path: A file that ``partition calibrate`` wrote.
            task: Which task's, where the file has several.

        Raises:
            CalibrationError: The file cannot be read, is no certificate, or has none for the task.
        """
        try:
            document = _AnyFile.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CalibrationError(
                f"{path}: cannot be read ({type(error).__name__}); make one with `partition calibrate`"
            ) from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise CalibrationError(
                f"{path}, key {key!r}: {first['msg']}; calibrate again"
            ) from error
        found = [item.to_certificate() for item in document.tasks or (document,)]
        if task is not None and document.tasks:
            found = [item for item in found if item.task == task]
        if task is not None:
            found = [item for item in found if item.task in ("", task)]
        if len(found) != 1:
            raise CalibrationError(
                f"{path}: holds {len(found)} certificates for this task; name one of its tasks"
            )
        return found[0]


def certificates_to_json(certificates: tuple[Certificate, ...]) -> str:
    """One file for the certificates of several tasks: a summary of all, then ``tasks`` with each.

    The summary has no threshold of its own, because scores of different tasks cannot be compared, and is "certified"
    only if every task is. Each task holds at its own confidence.
    """
    num_test = sum(item.num_test for item in certificates)
    n = sum(item.n for item in certificates)
    errors = sum(item.errors for item in certificates)
    all_certified = all(item.status is Status.CERTIFIED for item in certificates)
    bounds = [item.error_upper_bound for item in certificates if item.error_upper_bound is not None]
    summary = Certificate(
        status=Status.CERTIFIED if all_certified else Status.NOT_CERTIFIED,
        threshold=None,
        local_share=n / num_test if num_test else 0.0,
        observed_error=errors / n if n else None,
        error_upper_bound=max(bounds, default=None),
        max_error=max(item.max_error for item in certificates),
        confidence=min(item.confidence for item in certificates),
        n=n,
        errors=errors,
        fingerprint=certificates[0].fingerprint,
        num_records=sum(item.num_records for item in certificates),
        num_dev=sum(item.num_dev for item in certificates),
        num_test=num_test,
        notes=("Several tasks: the thresholds stand under `tasks`, one certificate each.",),
    )
    fields = asdict(summary) | {"tasks": [asdict(item) for item in certificates]}
    return _AnyFile.model_validate(fields).model_dump_json(indent=1) + "\n"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _FrontierPart(_Part):
    max_error: _Share
    threshold: _Finite | None
    local_share: _Share
    n: _Count
    errors: _Errors
    error_upper_bound: _Share | None
    delta: _Share


class _SlicePart(_Part):
    slice: str
    value: str
    num_test: _Count
    local_share: _Share
    n: _Count
    errors: _Errors
    observed_error: _Share | None
    error_upper_bound: _Share | None
    status: Status
    threshold: _Finite | None


class _CertificateFile(_Part):
    status: Status
    threshold: _Finite | None
    local_share: _Share
    observed_error: _Share | None
    error_upper_bound: _Share | None
    max_error: _Share
    confidence: _Share
    n: _Count
    fingerprint: Annotated[str, Field(pattern=_FINGERPRINT)]
    frontier: tuple[_FrontierPart, ...] = ()
    task: str = ""
    loss: Loss = Loss.ERROR
    bound: bool = False
    procedure: Procedure = Procedure.SPLIT_FIXED_SEQUENCE
    errors: _Errors = 0
    num_records: _Count = 0
    num_dev: _Count = 0
    num_test: _Count = 0
    local_share_low: _Share = 0.0
    local_share_high: _Share = 0.0
    labels_needed: _Count | None = None
    stricter_thresholds: tuple[_Finite, ...] = ()
    slices: tuple[_SlicePart, ...] = ()
    score_edges: tuple[_Finite, ...] = ()
    score_shares: tuple[_Share, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _claims_agree(self) -> Self:
        if self.status is Status.NOT_CERTIFIED and self.threshold is not None:
            raise ValueError("`threshold` must be null where nothing is certified")
        return self

    def to_certificate(self) -> Certificate:
        names = set(_CertificateFile.model_fields) - {"frontier", "slices"}
        return Certificate(
            **self.model_dump(include=names),
            frontier=tuple(FrontierRow(**row.model_dump()) for row in self.frontier),
            slices=tuple(SliceRow(**row.model_dump()) for row in self.slices),
        )


class _AnyFile(_CertificateFile):
    tasks: tuple[_CertificateFile, ...] = ()
