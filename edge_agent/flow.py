"""The types of one request's way through the device, in the order in which they arise.

    Request -> Prepared -> Anonymized -> LocalAnswer -> Confidence -> Decision -> Answer

Each step takes one and returns the next; all are frozen. ``Anonymized`` has a file of its own
(:mod:`edge_agent.anonymize.anonymized`), because only the anonymizer may make one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from partition.task import Message, Task


class Entity(enum.StrEnum):
    """What kind of identifier a span of text is."""

    PERSON = "PERSON"
    DATE = "DATE"
    AGE = "AGE"
    LOCATION = "LOCATION"
    ORGANIZATION = "ORGANIZATION"
    PHONE = "PHONE"
    EMAIL = "EMAIL"
    URL = "URL"
    IP_ADDRESS = "IP_ADDRESS"
    ID = "ID"


class Route(enum.StrEnum):
    """Where one request is answered."""

    LOCAL = "LOCAL"
    CLOUD = "CLOUD"
    VERIFY = "VERIFY"
    SPLIT = "SPLIT"
    QUEUED = "QUEUED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownValue:
    """One identifier that is known before any text is read, from a DICOM header or from the caller."""

    entity: Entity
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asks; exactly one of ``text``, ``messages`` and ``dicom`` is given."""

    id: str  # idempotency key, travels to the cloud: always of protos.request_id.new_request_id()
    task: str
    reference: str = field(
        default="", repr=False
    )  # the caller's own id; may identify a patient, so it stays here
    text: str | None = field(default=None, repr=False)
    messages: tuple[Message, ...] = field(default=(), repr=False)
    dicom: Path | bytes | None = field(default=None, repr=False)
    known: tuple[KnownValue, ...] = ()
    language: str | None = None  # "en", "pt" or "zh"; None: found out from the text
    max_output_tokens: int | None = None  # None: the task's own limit
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    needs_local: bool = False  # ask the local model even where its answer cannot stand; for records


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Clean text within the limits, with everything that is known about the patient."""

    request: Request
    task: Task
    messages: tuple[Message, ...] = field(repr=False)  # what the caller said, cleaned
    known: tuple[KnownValue, ...] = ()
    num_characters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How likely the model finds one label as the whole answer."""

    label: str
    log_probability: float  # natural logarithm, summed over the label's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """What the small model said, and everything a confidence can be computed from without a second pass."""

    text: str = field(repr=False)  # surrogates, not originals
    token_log_probabilities: tuple[float, ...]  # of each answer token, natural logarithm
    label_scores: tuple[LabelScore, ...] = ()  # one for each label of a classify task, in its order
    first_entropy: float = 0.0  # nats, of the distribution of the first answer token
    num_input_tokens: int
    num_cached_tokens: int = 0
    num_output_tokens: int
    truncated: bool = False  # the output limit ended it
    hidden: tuple[float, ...] = field(default=(), repr=False)  # last position, of a chosen layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How sure the device is of its own answer."""

    probability: float  # calibrated, for people; in [0, 1]
    score: float  # raw, for thresholds: it has no plateaus
    features: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where one request goes, and why."""

    route: Route
    reason: str  # one sentence for the operator; never request text
    flagged: bool = False  # a local answer below its threshold, given because the budget is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micro_usd: int = 0  # millionths of a dollar, as billed by the cloud; 0 on the device


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What the device itself would have said, whatever the route; calibration compares it with the truth."""

    text: str = field(repr=False)  # restored
    confidence: Confidence
    hidden: tuple[float, ...] = field(default=(), repr=False)  # identifiable; for training a probe
    prompt: tuple[float, ...] = field(
        default=(), repr=False
    )  # hashed words, identifiable; for a gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the caller gets."""

    request_id: str
    text: str = field(repr=False)
    route: Route
    reason: str
    confidence: float | None  # of the local answer; None when there was none
    model: str  # fingerprint of the model that wrote the text; empty when nobody did
    usage: Usage
    latency_ms: Mapping[str, float]  # by step, and "total"
    sent_bytes: int  # of this request, towards the cloud
    num_replaced: Mapping[Entity, int]  # identifiers replaced by surrogates
    num_unknown_surrogates: int = 0  # in the answer, that the model invented
    local: LocalResult | None = None  # None when the local model was not asked, or failed
    flagged: bool = False  # LOCAL, but below the threshold: nothing is promised of it
