"""One gRPC call as the interceptors and the servicers see it."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc

from cloud_service.identity import Identity
from cloud_service.tenancy.quotas import TenantMeter
from cloud_service.tenancy.tenants import Tenant
from protos.errors import UnauthenticatedError
from protos.tracing import NO_SPAN, Span

_CURRENT: ContextVar[Call] = ContextVar("tandem_call")


class Ending(enum.Enum):
    """Why a call is ended from outside."""

    LATE = "its deadline has come"
    REVOKED = "its caller may not call any more"


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """What is known about a call; the interceptors fill it in while it passes through them."""

    service: str
    method: str
    context: grpc.aio.ServicerContext[Any, Any] = field(repr=False)
    request: Any = field(repr=False)  # a message, or an iterator of them
    started_s: float = field(default_factory=time.monotonic)
    deadline_s: float = float("inf")  # on the clock of time.monotonic
    code: grpc.StatusCode = grpc.StatusCode.OK
    request_id: str = ""
    known_identity: Identity | None = None
    certificate_serial: str | None = None  # hexadecimal; None: a token or key alone was shown
    tenant: Tenant | None = None
    meter: TenantMeter | None = None
    span: Span = field(default=NO_SPAN, repr=False)
    task: asyncio.Task[Any] | None = field(default=None, repr=False)  # that answers it
    ending: Ending | None = None  # why it is being ended before its answer is whole

    @property
    def identity(self) -> Identity:
        """Who calls.

        Raises:
            UnauthenticatedError: Nobody has been recognised.
        """
        if self.known_identity is None:
            raise UnauthenticatedError("this call needs a client certificate; enrol the device")
        return self.known_identity

    def end(self, why: Ending) -> None:
        """Stop answering; whoever guards its deadline tells the caller why. On the event loop."""
        if self.task is not None and self.ending is None:
            self.ending = why
            self.task.cancel()

    @property
    def elapsed_us(self) -> int:
        """Since the request arrived, microseconds."""
        return round((time.monotonic() - self.started_s) * 1e6)

    @property
    def remaining_s(self) -> float:
        """Until the deadline; negative when it is over."""
        return self.deadline_s - time.monotonic()


Answer = Callable[[Call], Awaitable[Any]]
Guard = Callable[[Call, Answer], Awaitable[Any]]  # awaits the second with the first, or refuses


def current_call() -> Call:
    """The call that this task answers."""
    return _CURRENT.get()


def enter_call(call: Call) -> None:
    """Make a call the current one of this task."""
    _CURRENT.set(call)
