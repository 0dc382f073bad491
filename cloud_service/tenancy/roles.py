"""What each kind of caller may call. Whatever is not listed here is refused to everybody."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

_INFERENCE: Final = "tandem.inference.v1.InferenceService"
_FEEDBACK: Final = "tandem.feedback.v1.FeedbackService"
_SYNC: Final = "tandem.sync.v1.SyncService"
_ENROLMENT: Final = "tandem.enrolment.v1.EnrolmentService"


class Role(enum.StrEnum):
    """Who calls, by what they do."""

    DEVICE = "device"  # a certificate, or a token that says so
    BACKEND = "backend"  # an API key: asks and reports, fetches no releases
    OPERATOR = "operator"  # looks whether and what answers; asks nothing, so it costs nothing
    PUBLISHER = "publisher"  # sees the releases as devices see them


_EVERYBODY: Final = frozenset(Role)
_ASK: Final = frozenset({Role.DEVICE, Role.BACKEND})
_LOOK: Final = frozenset({Role.DEVICE, Role.BACKEND, Role.OPERATOR})
_FETCH: Final = frozenset({Role.DEVICE, Role.PUBLISHER})

ALLOWED: Final[Mapping[tuple[str, str], frozenset[Role]]] = {
    (_INFERENCE, "Generate"): _ASK,
    (_INFERENCE, "Extend"): _ASK,
    (_INFERENCE, "GetModel"): _LOOK,
    (_INFERENCE, "Probe"): _LOOK,
    (_FEEDBACK, "Report"): _ASK,
    (_SYNC, "GetMetadata"): _FETCH,
    (_SYNC, "GetBlob"): _FETCH,
    (_SYNC, "WatchDesired"): frozenset({Role.DEVICE}),
    (_SYNC, "Report"): frozenset({Role.DEVICE}),
    (_ENROLMENT, "Renew"): frozenset({Role.DEVICE}),
    ("grpc.health.v1.Health", "Check"): _EVERYBODY,
    ("grpc.health.v1.Health", "Watch"): _EVERYBODY,
    ("grpc.health.v1.Health", "List"): _EVERYBODY,
    # There only where `reflection` was switched on.
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"): _EVERYBODY,
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"): _EVERYBODY,
}


# Answered to callers that nobody knows yet: a device comes here to become known.
OPEN: Final = frozenset({(_ENROLMENT, "GetAuthority"), (_ENROLMENT, "Enrol")})


def may_call(role: Role, service: str, method: str) -> bool:
    """Whether callers of a role may call a method."""
    return role in ALLOWED.get((service, method), frozenset())
