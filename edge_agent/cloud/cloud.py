"""What the device may ask of the cloud: the seam that the real client and the simulated cloud both fill.

Light to import: no gRPC here.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edge_agent.flow import LabelScore, Request, Route, Usage
from partition.task import Task
from protos.request_id import is_request_id

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from partition.extend.model_card import ModelCard


class FinishReason(enum.StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # end of sequence, or a stop string
    LENGTH = "length"
    LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How the large model shall answer."""

    max_output_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    model: str = ""  # empty: the cloud's default

    @classmethod
    def of(cls, request: Request, task: Task) -> GenerateOptions:
        """Take the options of a request that may leave the device.

        A caller's stop string can hold an identifier, and the anonymizer does not read it: only those without any letter or
        digit go along. The device cuts the restored answer at every stop string itself.
        """
        return cls(
            max_output_tokens=request.max_output_tokens or task.limits.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=tuple(stop for stop in request.stop if stop and not any(map(str.isalnum, stop))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudAnswer:
    """What the large model said."""

    text: str = field(repr=False)  # surrogates, not originals
    model: str
    fingerprint: str
    finish_reason: FinishReason
    label_scores: tuple[LabelScore, ...] = ()
    usage: Usage
    compute_ms: float = 0.0  # in the cloud
    queue_ms: float = 0.0  # in the cloud
    replayed: bool = False  # a stored answer of this request, not a new one
    sent_bytes: int  # see CloudClient
    num_attempts: int = 1
    first_text_ms: float | None = None  # from the call to the first text
    route: Route = Route.CLOUD  # VERIFY or SPLIT where the device had a part in it


class Verdict(enum.StrEnum):
    """How an answer turned out; the names of ``tandem.feedback.v1.Verdict``."""

    CORRECT = "CORRECT"
    WRONG = "WRONG"
    AGREES_WITH_CLOUD = "AGREES_WITH_CLOUD"
    DISAGREES_WITH_CLOUD = "DISAGREES_WITH_CLOUD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one answer of this device turned out; holds no text of the request."""

    answered_request_id: str
    task: str
    route: str
    score: float  # the raw score that the router compared
    fingerprint: str
    verdict: Verdict
    reviewed_label: str = ""  # one of the task's labels; empty if nobody reviewed it
    answered_unix_ms: int


class Cloud(Protocol):
    """The cloud, as the agent and the delivery see it. Thread-safe."""

    @property
    def why_unavailable(self) -> str:
        """Why the cloud is not worth a try now, in one sentence; empty when it is."""

    def generate(
        self,
        anonymized: Anonymized,
        *,
        options: GenerateOptions,
        deadline_s: float | None = None,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        num_attempts: int | None = None,
        on_sent: Callable[[int], None] | None = None,
        queued: bool = False,
    ) -> CloudAnswer:
        """Have the large model answer.

        Args:
            anonymized: The request; nothing else is accepted.
            options: How to answer.
            deadline_s: For everything, attempts and pauses included; None: by the number of tokens allowed.
            on_text: Gets each piece of text as it comes, in this thread; what it raises ends the call and comes out.
            cancel: Ends the call from another thread; at once when it is a :class:`~edge_agent.cancellation.Cancellation`,
                else with the next piece.
            num_attempts: At most; None: the client's own number.
            on_sent: Told of the bytes of each attempt before they go out, so that those of a failed call count as well.
            queued: The request may come again after days; the cloud remembers its answer for as long.

        Raises:
            WireError: One of its kinds (:mod:`protos.errors`).
            TypeError: ``anonymized`` is something else.
        """

    def get_model(self, *, deadline_s: float = 10.0) -> ModelCard:
        """Ask which model answers.

        Raises:
            WireError: One of its kinds.
        """

    def report(
        self, report_id: str, outcomes: Sequence[Outcome], *, deadline_s: float = 10.0
    ) -> int:
        """Tell how answers turned out; idempotent by ``report_id``.

        Returns:
            How many are stored.

        Raises:
            WireError: One of its kinds.
        """

    def close(self) -> None:
        """End every call and close the connection."""


class WireIds:
    """Makes the ids that leave the device.

    A caller's own id can be an accession number or a name, so only a UUIDv7 travels as it is. Any other is replaced by the
    keyed hash of it in the form of a UUIDv7 (its time is no time): the same for the same id, so that it stays an idempotency
    key, and unguessable without the device's key.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, request_id: str) -> str:
        """Make the id under which the cloud knows a request."""
        if is_request_id(request_id):
            return request_id
        digest = hmac.digest(self._key, request_id.encode(errors="surrogatepass"), hashlib.sha256)
        number = int.from_bytes(digest[:16], "big")
        number = number & ~(0xF << 76) | 0x7 << 76
        number = number & ~(0b11 << 62) | 0b10 << 62
        return str(uuid.UUID(int=number))
