"""One tree of wire errors, and its one translation to and from gRPC status; both ends use it.

    WireError
     +-- InvalidRequestError      INVALID_ARGUMENT     the caller corrects the request
     |    +-- RequestIdReusedError                     same id, other content
     +-- UnauthenticatedError     UNAUTHENTICATED      the caller shows a valid certificate or token
     +-- PermissionDeniedError    PERMISSION_DENIED    the operator grants it, or nobody does
     +-- NotFoundError            NOT_FOUND            no such thing, or not this tenant's
     +-- PreconditionError        FAILED_PRECONDITION  the two sides do not run the same thing
     +-- QuotaExceededError       RESOURCE_EXHAUSTED   wait `retry_after_s`
     +-- InProgressError          ABORTED              the same request is being answered; wait `retry_after_s`
     +-- UnavailableError         UNAVAILABLE          the network or the server; try again
     |    +-- DrainingError                            this server is going away; another one answers
     +-- DeadlineExceededError    DEADLINE_EXCEEDED    there was too little time
     +-- RequestCancelledError    CANCELLED            the caller hung up
     +-- UnsupportedError         UNIMPLEMENTED        this server cannot do that
     +-- InternalError            INTERNAL             a bug or a broken peer; report it

The details travel as google.rpc.Status in ``grpc-status-details-bin``: ErrorInfo (domain ``tandem``, the reason),
RetryInfo, QuotaFailure. A message never holds request text.
"""

from __future__ import annotations

from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARACTERS = 1024  # the details must stay far below the 8 KB that metadata may have


class WireError(Exception):
    """Root of what one end tells the other; ``code`` is its gRPC status, ``reason`` the word machines compare."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"
    is_transient: ClassVar[bool] = False  # the same call may succeed later, unchanged

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, quota: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.quota = quota  # which limit was met


class InvalidRequestError(WireError):
    """The request is malformed or beyond a limit."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class RequestIdReusedError(InvalidRequestError):
    """The request id was used before, for another content."""

    reason = "REQUEST_ID_REUSED"


class UnauthenticatedError(WireError):
    """Nobody knows who is calling."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(WireError):
    """The caller is known, and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFoundError(WireError):
    """There is no such thing, or it is another tenant's."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class PreconditionError(WireError):
    """The two sides do not run the same model, tokenizer or template."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "MISMATCH"


class QuotaExceededError(WireError):
    """A limit of the tenant or device is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"
    is_transient = True


class InProgressError(WireError):
    """Another call with this request id is being answered."""

    code = grpc.StatusCode.ABORTED
    reason = "IN_PROGRESS"
    is_transient = True


class UnavailableError(WireError):
    """The network or the server failed."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    is_transient = True


class DrainingError(UnavailableError):
    """The server is shutting down in good order."""

    reason = "DRAINING"


class DeadlineExceededError(WireError):
    """There was too little time for the answer."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    is_transient = True


class RequestCancelledError(WireError):
    """The caller hung up."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class UnsupportedError(WireError):
    """This server does not do that."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNSUPPORTED"


class InternalError(WireError):
    """A bug, or a peer that says things that cannot be."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


# Subclasses stand behind their base: the reason finds them, the code alone finds the base.
ERRORS: tuple[type[WireError], ...] = (
    InvalidRequestError,
    RequestIdReusedError,
    UnauthenticatedError,
    PermissionDeniedError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
    InProgressError,
    UnavailableError,
    DrainingError,
    DeadlineExceededError,
    RequestCancelledError,
    UnsupportedError,
    InternalError,
)
_BY_REASON = {error.reason: error for error in ERRORS}
_BY_CODE = {error.code: error for error in reversed(ERRORS)}


def to_status(error: WireError) -> status_pb2.Status:
    """Make the rich status of an error, for trailing metadata under :data:`DETAILS_KEY`."""
    number: int = error.code.value[0]
    status = status_pb2.Status(code=number, message=error.message[:MAX_MESSAGE_CHARACTERS])
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if error.quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=error.quota, description=f"the limit {error.quota} is used up"
        )
        _pack(status, error_details_pb2.QuotaFailure(violations=[violation]))
    return status


def from_status(status: status_pb2.Status) -> WireError:
    """Make the error that a rich status tells of; an unknown reason falls back to the code."""
    code = _CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, retry_after_s, quota = "", None, None
    for detail in status.details:
        info, retry, failure = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.QuotaFailure(),
        )
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Unpack(failure) and failure.violations:
            quota = failure.violations[0].subject
    return _make(code, status.message, reason, retry_after_s, quota)


def from_rpc_error(error: grpc.RpcError) -> WireError:
    """Make the error that a failed call tells of, rich when the peer was ours, by its code otherwise."""
    # What grpc.aio raises is no grpc.Call, though it has all that is needed of one.
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return UnavailableError("the call failed before it reached the network; try again")
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: not one of our servers
        status = None
    if status is not None:
        return from_status(status)
    return _make(error.code(), _SENTENCES.get(error.code(), ""), "", None, None)


# What a peer without rich errors gets said: its own details may hold anything, so they are not repeated.
_SENTENCES = {
    grpc.StatusCode.UNAVAILABLE: "the cloud cannot be reached; check the network, the address and the certificates",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the cloud did not answer in time; try again, or raise the task's deadline_s",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
    grpc.StatusCode.UNAUTHENTICATED: "the cloud does not accept this device's certificate; enrol it again",
}
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _make(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    retry_after_s: float | None,
    quota: str | None,
) -> WireError:
    kind = _BY_REASON.get(reason)
    if kind is None or kind.code is not code:
        kind = _BY_CODE.get(code, InternalError)
    text = message or f"the cloud answered {code.name}; see the server's log"
    return kind(text, retry_after_s=retry_after_s, quota=quota)


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]  # google.rpc has no stubs
    status.details.append(packed)


assert set(code_pb2.Code.values()) >= set(_CODE_BY_NUMBER)
