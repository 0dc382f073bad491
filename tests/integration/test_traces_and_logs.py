"""One trace from the device through the cloud, as a collector gets it; logs as JSON; latencies by class. Nothing of any text."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cloud_service.cli import main
from cloud_service.storage.envelope import load_master_key
from tests.cloud_harness import Site, ask, cloud_process, running_cloud

ROOT = Path(__file__).parents[2]
SECRET = "Zebediah Quackenbush"

# The device's half, in a program of its own: an SDK is set up once in a process.
DEVICE = """
import sys
from pathlib import Path
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from protos.errors import WireError
from tests.cloud_harness import Site
from tests.integration.test_edge_to_cloud import client_of
from tests.unit.edge_agent.test_agent import Bench

endpoint, root, model, address, secret = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"service.name": "device"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("the program")
with client_of(Site(Path(root), Path(model)), address) as client:
    agent = Bench(Path(root), client).agent
    agent.ask("quite sure: " + secret, task="chat")
    agent.ask("Is it large, " + secret, task="chat")
    with tracer.start_as_current_span("screen"):
        *_, answer = agent.stream("And now, " + secret, task="chat")
    try:
        agent.ask(secret * 300, task="chat")  # more than the model there holds
    except WireError as error:
        print(error.reason)
    agent.close()
provider.shutdown()
"""


GENERATE = "tandem.inference.v1.InferenceService/Generate"
SERVER = 2  # of OTLP's kinds of spans
CLOCK_NS = 1_000_000  # what one process's clocks may differ by


def values_of(span: Any) -> dict[str, Any]:
    return {pair.key: pair.value for pair in span.attributes}


class Collector:
    """Takes what OTLP exporters post."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self) -> list[tuple[str, Any]]:
        """All spans so far, with the service that made each."""
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        found = []
        for body in self.bodies:
            request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(names["service.name"], span) for span in scope.spans]
        return found


@contextmanager
def collector() -> Iterator[Collector]:
    taken = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            taken.bodies.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_one_trace_from_device_to_cloud(site: Site) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `trace`")
    with collector() as taken:
        environment = {
            "TANDEM_CLOUD_TRACES__ENDPOINT": taken.url,
            "TANDEM_CLOUD_LOG_FORMAT": "json",
        }
        with cloud_process(site, **environment) as cloud:
            arguments = [taken.url, str(site.root), str(site.model), cloud.ready["address"], SECRET]
            device = subprocess.run(
                [sys.executable, "-c", DEVICE, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert device.returncode == 0, device.stderr
            assert device.stdout.strip() == "INVALID_REQUEST"
            code, log = cloud.stop()
        assert code == 0
        spans = taken.spans()
    by_id = {span.span_id: (service, span) for service, span in spans}

    def names_above(span: Any) -> list[str]:
        """From a span up to its root, and nothing of another trace."""
        names = []
        while span.parent_span_id:
            child, (_, span) = span, by_id[span.parent_span_id]
            assert child.trace_id == span.trace_id
            assert span.start_time_unix_nano <= child.start_time_unix_nano + CLOCK_NS
            names.append(span.name)
        return names

    device = [span for service, span in spans if service == "device"]
    roots = [span for span in device if not span.parent_span_id]
    assert sorted(span.name for span in roots) == ["request", "request", "request", "screen"]
    assert len({span.trace_id for span in roots}) == 4
    local = next(span for span in device if span.name == "request")
    assert values_of(local)["tandem.route"].string_value == "LOCAL"
    steps = {span.name for span in device if span.parent_span_id == local.span_id}
    assert {"preprocess", "anonymize", "local_model", "router"} <= steps
    served = [span for service, span in spans if service == "tandem-cloud" and span.kind == SERVER]
    way = [GENERATE, "cloud", "request"]
    assert [span.name for span in served] == [GENERATE] * 3
    assert [names_above(span) for span in served] == [way, [*way, "screen"], way]
    good, _, refused = served
    values = values_of(good)
    assert values["tandem.tenant"].string_value == "clinic"
    assert values["tandem.output_tokens"].int_value > 0
    assert values["rpc.grpc.status_code"].int_value == 0
    assert [event.name for event in good.events] == ["first token"]
    assert refused.status.message == "INVALID_ARGUMENT"
    engine = [span for service, span in spans if span.name == "engine"]
    assert [names_above(span) for span in engine] == [[GENERATE, *way], [GENERATE, *way, "screen"]]
    for span in engine:
        assert values_of(span)["tandem.steps"].int_value > 1
        assert span.start_time_unix_nano < span.end_time_unix_nano
    everything = b"".join(taken.bodies) + log.encode()
    for word in SECRET.split():
        assert word.encode() not in everything
    _log_is_structured(log, good.trace_id.hex())


def _log_is_structured(log: str, trace_id: str) -> None:
    lines = [json.loads(line) for line in log.splitlines()]
    calls = [line for line in lines if line["event"] == "call"]
    assert [(line["method"], line["code"]) for line in calls] == [
        ("Generate", "OK"),
        ("Generate", "OK"),
        ("Generate", "INVALID_ARGUMENT"),
    ]
    assert calls[0]["trace_id"] == trace_id
    assert calls[0]["tenant"] == "clinic"
    assert calls[0]["ms"] > 0
    assert {line["event"] for line in lines} >= {"serving", "drained"}


async def test_latencies_are_told_by_class(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    config = site.root / "cloud.toml"
    config.write_text(
        "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n[state]\ndirectory = 'state'\n"
    )
    load_master_key(site.root / "state/master.key")
    arguments = ["tenants", "add", "clinic", "--class", "gold", "--config", str(config), "--json"]
    assert main(arguments) == 0
    assert main(["tenants", "add", "x", "--class", "a b", "--config", str(config)]) == 1
    capsys.readouterr()
    async with running_cloud(site) as cloud, cloud.client() as client:
        started_s = time.monotonic()
        await client.generate(ask(max_output_tokens=10))
        await client.generate(ask(labels=["yes", "no"]))
        took_s = time.monotonic() - started_s
        sample = cloud.server.metrics.registry.get_sample_value
        gold = {"class": "gold"}
        assert sample("tandem_first_token_seconds_count", gold) == 2
        first_s = sample("tandem_first_token_seconds_sum", gold)
        assert first_s is not None
        assert 0 < first_s < took_s
        assert sample("tandem_output_token_seconds_count", gold) == 1
        pace_s = sample("tandem_output_token_seconds_sum", gold)
        assert pace_s is not None
        assert 0 < pace_s * 9 < took_s
        assert sample("tandem_engine_queue_seconds_count", gold) == 2
        assert sample("tandem_cost_micro_usd_total", {"tenant": "clinic"}) > 0
        assert sample("tandem_engine_batch_sequences_count") > 10
        assert sample("tandem_sessions") == 0
