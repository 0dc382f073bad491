"""Traces that go on from one end to the other: the W3C trace context in the metadata of calls.

Only where the program has set up OpenTelemetry's SDK (the extra ``trace``); otherwise nothing is made, sent, read or imported. A span holds names, numbers and statuses: never text of a request, and no exception, whose text might.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

SCOPE: Final = "tandem"
# Baggage is left alone: whatever a program put there for itself would leave the device.
TRACE_KEYS: Final = ("traceparent", "tracestate")


class Span:
    """One span, or nothing at all."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def set(self, **values: str | int | float | bool) -> None:
        """Add attributes; two underscores in a name stand for a dot."""
        if self._inner is not None:
            for name, value in values.items():
                self._inner.set_attribute(name.replace("__", "."), value)

    def event(self, name: str) -> None:
        """Mark a moment."""
        if self._inner is not None:
            self._inner.add_event(name)

    def fail(self, reason: str) -> None:
        """Mark it as failed, with a word machines compare."""
        if self._inner is not None:
            from opentelemetry.trace import Status, StatusCode

            self._inner.set_status(Status(StatusCode.ERROR, reason))


NO_SPAN: Final = Span()


def are_made() -> bool:
    """Whether spans are: whether the program has set an SDK up; then it has imported the API, and nobody else pays for that."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def span(name: str, *, kind: str = "INTERNAL") -> Iterator[Span]:
    """Make a span below the current one, and make it the current one.

    Args:
        name: What is done; a closed set of names.
        kind: INTERNAL, CLIENT or SERVER.
    """
    if not are_made():
        yield NO_SPAN
        return
    from opentelemetry import trace

    tracer = trace.get_tracer(SCOPE)
    with tracer.start_as_current_span(
        name,
        kind=trace.SpanKind[kind],
        record_exception=False,
        set_status_on_exception=False,
    ) as inner:
        yield Span(inner)


def past_span(name: str, *, started_s: float, ended_s: float, **values: str | float) -> None:
    """Make a span below the current one of what has happened already, on another thread for instance.

    Args:
        name: What was done; a closed set of names.
        started_s: When, on the clock of time.monotonic.
        ended_s: Likewise.
        values: Its attributes, named as in :meth:`Span.set`.
    """
    if not are_made():
        return
    from opentelemetry import trace

    offset_s = time.time() - time.monotonic()
    made = trace.get_tracer(SCOPE).start_span(name, start_time=int((started_s + offset_s) * 1e9))
    Span(made).set(**values)
    made.end(end_time=int((ended_s + offset_s) * 1e9))


@contextmanager
def continued_span(name: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Span]:
    """Make the span of a call that is answered here, below the caller's if its metadata names one."""
    if not are_made():
        yield NO_SPAN
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        key: value for key, value in metadata if key in TRACE_KEYS and isinstance(value, str)
    }
    token = context.attach(TraceContextTextMapPropagator().extract(carrier))
    try:
        with span(name, kind="SERVER") as made:
            yield made
    finally:
        context.detach(token)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """What a call carries of the current span; empty where there is none."""
    if not are_made():
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def current_trace_id() -> str:
    """The current trace as 32 hexadecimal digits, for logs; empty where there is none."""
    if not are_made():
        return ""
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else ""
