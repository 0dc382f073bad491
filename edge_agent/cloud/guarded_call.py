"""One call to the cloud, whatever it asks: let through by the breaker, counted, its errors translated on their way out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from edge_agent.cancellation import Cancellation
from edge_agent.cloud.channel import CloudChannel
from edge_agent.cloud.circuit_breaker import CircuitBreaker
from edge_agent.cloud.observer import CallObserver
from edge_agent.metrics import Metrics
from protos.errors import (
    DeadlineExceededError,
    DrainingError,
    InternalError,
    RequestCancelledError,
    UnavailableError,
    WireError,
    from_rpc_error,
)
from protos.tracing import span, trace_metadata

FRAME_BYTES = 5  # gRPC's prefix of every message


class PausedError(UnavailableError):
    """The breaker is open; trying again at once is just what it forbids."""

    is_transient = False


class CallRecord:
    """What is known of one call."""

    def __init__(self, channel: grpc.Channel, clock: Callable[[], float]) -> None:
        self.channel = channel
        self.sent_bytes = 0
        self.sent_at = 0.0  # seconds on the clock
        self.received_bytes = 0
        self.metadata = trace_metadata()
        self._clock = clock

    def sent(self, message: Any) -> None:
        """Count a message that goes out now."""
        self.sent_at = self._clock()
        self.sent_bytes += message.ByteSize() + FRAME_BYTES

    def received(self, message: Any) -> None:
        """Count a message that came."""
        self.received_bytes += message.ByteSize() + FRAME_BYTES


class GuardedCalls:
    """Lends the channel for one call at a time. Thread-safe.

    Args:
        channel: The way to the cloud.
        breaker: Decides when the cloud counts as unreachable.
        metrics: Where calls are counted.
        observer: Told of calls that went well.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        channel: CloudChannel,
        *,
        breaker: CircuitBreaker,
        metrics: Metrics,
        observer: CallObserver | None,
        clock: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._breaker = breaker
        self._metrics = metrics
        self._observer = observer
        self._clock = clock
        self._is_warm = (
            False  # a call has gone well since the last that did not: no handshake is timed
        )

    @property
    def why_unavailable(self) -> str:
        """Why the cloud is not worth a try now, in one sentence; empty when it is."""
        remaining_s = self._breaker.remaining_s
        if remaining_s == 0:
            return ""
        return f"the cloud has not answered lately and is left alone for {remaining_s:.0f} s more"

    @contextmanager
    def call(self, service: str, method: str) -> Iterator[CallRecord]:
        """Ask the breaker, lend the channel, count the call, and translate every error on its way out."""
        if not self._breaker.try_enter():
            raise PausedError(
                self.why_unavailable or "the cloud is being tried by another request; try again",
                retry_after_s=self._breaker.remaining_s,
            )
        outcome: Callable[[], None] = self._breaker.record_nothing
        code = grpc.StatusCode.UNKNOWN
        record: CallRecord | None = None
        started = self._clock()
        self._metrics.call_started(service, method)
        try:
            with span(f"{service}/{method}", kind="CLIENT"), self._channel.lend() as channel:
                record = CallRecord(channel, self._clock)
                try:
                    yield record
                except grpc.RpcError as error:
                    raise from_rpc_error(error) from error
                except (
                    ValueError
                ) as error:  # grpc's way to say that the channel was closed meanwhile
                    raise UnavailableError("the way to the cloud was closed; try again") from error
            outcome, code = self._breaker.record_success, grpc.StatusCode.OK
            self._is_warm = True
        except WireError as error:
            code = error.code
            outcome = _outcome(self._breaker, error)
            self._is_warm = False
            raise
        finally:
            outcome()
            self._metrics.call_handled(
                service,
                method,
                code=code.name,
                duration_s=self._clock() - started,
                sent_bytes=record.sent_bytes if record is not None else 0,
                received_bytes=record.received_bytes if record is not None else 0,
            )

    def first_reply(self, call: CallRecord, *, server_s: float = 0.0) -> None:
        """Let the observer learn from the first reply of a call, unless a handshake may have been part of it."""
        if self._observer is not None and self._is_warm:
            self._observer.called(
                bytes_up=call.sent_bytes,
                bytes_down=call.received_bytes,
                elapsed_s=self._clock() - call.sent_at,
                server_s=server_s,
            )


@contextmanager
def reading(call: Any, cancel: threading.Event) -> Iterator[Any]:
    """Read a stream so that it never outlives the block (see grpc #43462) and ends when cancelled."""
    try:
        if isinstance(cancel, Cancellation):
            with cancel.calling(call.cancel):
                yield call
        else:
            yield call
    finally:
        call.cancel()  # of a stream that has ended already: no effect


def _outcome(breaker: CircuitBreaker, error: WireError) -> Callable[[], None]:
    """Say what an error tells about the cloud: a refusal shows that it is there."""
    if isinstance(error, (RequestCancelledError, DrainingError)):
        return breaker.record_nothing
    if isinstance(error, (UnavailableError, DeadlineExceededError, InternalError)):
        return breaker.record_failure
    return breaker.record_success
