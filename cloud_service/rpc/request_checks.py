"""Limits on text, lists and numbers of a request, in one place: what passes here is safe to work on."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Final, Protocol

from google.protobuf.message import Message as WireMessage

from cloud_service.config import LimitsConfig
from partition.generation.sampling import SamplingRule
from partition.task import Message, Role
from protos.errors import InvalidRequestError
from protos.feedback.v1 import feedback_pb2
from protos.inference.v1 import inference_pb2
from protos.request_id import is_request_id

MAX_TEMPERATURE: Final = 10.0
MAX_SHORT_TEXT: Final = 256  # characters of a label or a stop string
MAX_PROBE_BYTES: Final = 1 << 20
_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_FINGERPRINT = re.compile(r"[0-9a-f]{0,64}")
_ROUTE = re.compile(r"[A-Z]{0,16}")
_ROLES: Final = {
    inference_pb2.ROLE_SYSTEM: Role.SYSTEM,
    inference_pb2.ROLE_USER: Role.USER,
    inference_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    inference_pb2.ROLE_TOOL: Role.TOOL,
}


class _HasRequestId(Protocol):
    request_id: str


def check_probe(request: inference_pb2.ProbeRequest) -> None:
    """Check the sizes of a probe of the way here.

    Raises:
        InvalidRequestError: They are over the limit.
    """
    if max(len(request.padding), request.reply_bytes) > MAX_PROBE_BYTES:
        raise InvalidRequestError(f"a probe has at most {MAX_PROBE_BYTES} bytes either way")


def checked_request_id(request: _HasRequestId) -> str:
    """The idempotency key.

    Raises:
        InvalidRequestError: It is no UUIDv7.
    """
    if not is_request_id(request.request_id):
        raise InvalidRequestError("`request_id` must be a UUIDv7 in lower case; make a new one")
    return request.request_id


def payload_sha256(request: WireMessage, *without: str) -> bytes:
    """Digest of a request's content, some fields left out; equal for equal content from any client."""
    copy = type(request)()
    copy.CopyFrom(request)
    for name in without:
        copy.ClearField(name)
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def checked_messages(
    request: inference_pb2.GenerateRequest, limits: LimitsConfig
) -> tuple[Message, ...]:
    """The conversation.

    Raises:
        InvalidRequestError: It is empty, too long, or has a turn without role.
    """
    if not 1 <= len(request.messages) <= limits.max_messages:
        raise InvalidRequestError(f"`messages` must have 1 to {limits.max_messages} entries")
    num_bytes = sum(len(message.text.encode()) for message in request.messages)
    if num_bytes > limits.max_text_bytes:
        raise InvalidRequestError(
            f"`messages` may hold {limits.max_text_bytes} bytes of text; shorten them"
        )
    if not any(message.text.strip() for message in request.messages):
        raise InvalidRequestError("`messages` hold no text; send some")
    turns = []
    for message in request.messages:
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidRequestError("a message has no known `role`; set one")
        turns.append(Message(role=role, text=message.text))
    return tuple(turns)


def checked_sampling(sampling: inference_pb2.Sampling) -> SamplingRule:
    """How tokens are chosen.

    Raises:
        InvalidRequestError: A number is not finite or out of range.
    """
    temperature, top_p = sampling.temperature, sampling.top_p
    if not (math.isfinite(temperature) and 0 <= temperature <= MAX_TEMPERATURE):
        raise InvalidRequestError(f"`temperature` must be 0 to {MAX_TEMPERATURE:g}")
    if not (math.isfinite(top_p) and 0 <= top_p <= 1):
        raise InvalidRequestError("`top_p` must be 0 to 1")
    return SamplingRule(
        temperature=temperature, top_k=sampling.top_k, top_p=top_p or 1.0, seed=sampling.seed
    )


def checked_output_tokens(request: inference_pb2.GenerateRequest, limits: LimitsConfig) -> int:
    """The most tokens of the answer; 0 on the wire is the service's own limit.

    Raises:
        InvalidRequestError: It is over the limit.
    """
    if request.max_output_tokens > limits.max_output_tokens:
        raise InvalidRequestError(f"`max_output_tokens` may be {limits.max_output_tokens} at most")
    return request.max_output_tokens or limits.max_output_tokens


def checked_labels(request: inference_pb2.GenerateRequest, limits: LimitsConfig) -> tuple[str, ...]:
    """The answers to choose from.

    Raises:
        InvalidRequestError: There is one only, too many, an empty or overlong one, or one twice.
    """
    labels = tuple(request.labels)
    if not labels:
        return ()
    if not 2 <= len(labels) <= limits.max_labels or len(set(labels)) != len(labels):
        raise InvalidRequestError(f"`labels` must be 2 to {limits.max_labels} different texts")
    _check_short_texts("labels", labels)
    return labels


def checked_stop(request: inference_pb2.GenerateRequest, limits: LimitsConfig) -> tuple[str, ...]:
    """Texts that end the answer.

    Raises:
        InvalidRequestError: There are too many, or one is empty or overlong.
    """
    stop = tuple(request.stop)
    if len(stop) > limits.max_stop_strings:
        raise InvalidRequestError(f"`stop` may have {limits.max_stop_strings} entries at most")
    _check_short_texts("stop", stop)
    return stop


def check_task(task: str, *, required: bool) -> None:
    """Check a task's name.

    Raises:
        InvalidRequestError: It is none.
    """
    if (task or required) and _TASK.fullmatch(task) is None:
        raise InvalidRequestError("`task` must be a task's name: a-z, 0-9 and hyphens, up to 63")


def check_outcomes(request: feedback_pb2.ReportRequest, limits: LimitsConfig) -> None:
    """Check every outcome of a report.

    Raises:
        InvalidRequestError: One is malformed, or there are none or too many.
    """
    if not 1 <= len(request.outcomes) <= limits.max_outcomes:
        raise InvalidRequestError(f"`outcomes` must have 1 to {limits.max_outcomes} entries")
    for outcome in request.outcomes:
        check_task(outcome.task, required=True)
        well_formed = (
            is_request_id(outcome.answered_request_id)
            and outcome.verdict in feedback_pb2.Verdict.values()
            and outcome.verdict != feedback_pb2.VERDICT_UNSPECIFIED
            and math.isfinite(outcome.score)
            and _FINGERPRINT.fullmatch(outcome.fingerprint) is not None
            and _ROUTE.fullmatch(outcome.route) is not None
            and len(outcome.reviewed_label) <= MAX_SHORT_TEXT
            and outcome.answered_unix_ms >= 0
        )
        if not well_formed:
            raise InvalidRequestError(
                "an outcome is malformed; see feedback.proto for what each field may hold"
            )


def _check_short_texts(name: str, texts: tuple[str, ...]) -> None:
    if any(not 0 < len(text) <= MAX_SHORT_TEXT for text in texts):
        raise InvalidRequestError(
            f"each of `{name}` must have 1 to {MAX_SHORT_TEXT} characters; correct them"
        )
