"""What the device counts, in a registry of its own (never prometheus_client's global one).

Labels are few and closed: methods, gRPC codes, kinds, routes, steps, entities, task names. Never a device, a request or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edge_agent.flow import Answer

_Kind = TypeVar("_Kind", bound=str)  # of the outbox, which stands above this
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CALL_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters and histograms of one agent. Thread-safe.

    Making one imports prometheus_client, which importing this module does not.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        registry = self.registry = CollectorRegistry()
        # Towards the cloud; names shared with the cloud's own metrics.
        self._started = Counter(
            "tandem_rpc_started", "Calls begun", ["service", "method"], registry=registry
        )
        self._handled = Counter(
            "tandem_rpc_handled", "Calls ended", ["service", "method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "tandem_rpc_seconds",
            "Duration of calls",
            ["service", "method"],
            registry=registry,
            buckets=_CALL_BUCKETS_S,
        )
        self._in_flight = Gauge("tandem_rpc_in_flight", "Calls running", registry=registry)
        self._bytes = Counter(
            "tandem_rpc_bytes", "Messages, serialised", ["direction"], registry=registry
        )
        self._retries = Counter("tandem_rpc_retries", "Calls tried again", registry=registry)
        self._swaps = Counter(
            "tandem_channel_swaps", "Channels replaced for new certificates", registry=registry
        )
        # The outbox.
        self._outbox_depth = Gauge(
            "tandem_outbox_depth", "Items waiting for the cloud", ["kind"], registry=registry
        )
        self._outbox_oldest = Gauge(
            "tandem_outbox_oldest_seconds", "Age of the oldest waiting item", registry=registry
        )
        self._outbox_dead = Counter(
            "tandem_outbox_dead", "Items given up, which a person must look at", registry=registry
        )
        # The device's own requests.
        self._requests = Counter(
            "tandem_requests", "Requests answered", ["task", "route"], registry=registry
        )
        self._failures = Counter(
            "tandem_request_failures", "Requests ended by an error", ["task"], registry=registry
        )
        self._step_seconds = Histogram(
            "tandem_request_seconds",
            "Duration of one request, by step",
            ["step"],
            registry=registry,
            buckets=_CALL_BUCKETS_S,
        )
        self._replaced = Counter(
            "tandem_identifiers_replaced", "Identifiers replaced", ["entity"], registry=registry
        )
        self._sent_bytes = Counter(
            "tandem_sent_bytes", "Bytes of requests sent to the cloud", registry=registry
        )

    def call_started(self, service: str, method: str) -> None:
        """Count a call that goes out."""
        self._started.labels(service, method).inc()
        self._in_flight.inc()

    def call_handled(
        self,
        service: str,
        method: str,
        *,
        code: str,
        duration_s: float,
        sent_bytes: int,
        received_bytes: int,
    ) -> None:
        """Count a call that has ended, with the name of its gRPC status."""
        self._in_flight.dec()
        self._handled.labels(service, method, code).inc()
        self._seconds.labels(service, method).observe(duration_s)
        self._bytes.labels("sent").inc(sent_bytes)
        self._bytes.labels("received").inc(received_bytes)

    def call_retried(self) -> None:
        """Count a call that is made once more."""
        self._retries.inc()

    def channel_swapped(self) -> None:
        """Count a channel that took another's place."""
        self._swaps.inc()

    def outbox_counted(self, depth: Mapping[_Kind, int], *, oldest_s: float) -> None:
        """Set how many items of each kind wait, and how long the oldest has waited."""
        for kind, number in depth.items():
            self._outbox_depth.labels(str(kind)).set(number)
        self._outbox_oldest.set(oldest_s)

    def outbox_died(self, number: int = 1) -> None:
        """Count items that were given up."""
        self._outbox_dead.inc(number)

    def answered(self, task: str, answer: Answer) -> None:
        """Count one answer: its route, the time of its steps, what was replaced and sent."""
        self._requests.labels(task, answer.route.value).inc()
        for step, duration_ms in answer.latency_ms.items():
            self._step_seconds.labels(step).observe(duration_ms / 1000)
        for entity, number in answer.num_replaced.items():
            self._replaced.labels(entity.value).inc(number)
        self._sent_bytes.inc(answer.sent_bytes)

    def failed(self, task: str) -> None:
        """Count a request that ended with an error; ``task`` must be one that exists, or "unknown"."""
        self._failures.labels(task).inc()

    def render(self) -> bytes:
        """Write everything in the Prometheus text format (:data:`CONTENT_TYPE`)."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))
