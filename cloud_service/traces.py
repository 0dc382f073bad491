"""Sends this program's spans to a collector, where OpenTelemetry's SDK is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from cloud_service.errors import CloudServiceError


def set_up_traces(endpoint: str | None, *, sample_ratio: float) -> Callable[[], None]:
    """Set the SDK up for the whole process; for the entry point alone.

    Args:
        endpoint: Of a collector that takes OTLP over HTTP, up to ``/v1/traces``; None: no spans are made.
        sample_ratio: Of the traces that begin here; one that a device began is kept as the device decided.

    Returns:
        What flushes and ends it.

    Raises:
        CloudServiceError: The libraries are not installed.
    """
    if endpoint is None:
        return _nothing
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise CloudServiceError(
            "traces need OpenTelemetry; run `pip install 'tandem-llm[trace]'`, or leave `traces.endpoint` out"
        ) from error
    words = {"service.name": "tandem-cloud", "service.version": version("tandem-llm")}
    provider = TracerProvider(
        resource=Resource.create(words), sampler=ParentBasedTraceIdRatio(sample_ratio)
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _nothing() -> None:
    return
