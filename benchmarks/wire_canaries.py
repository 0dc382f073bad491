"""Canaries on the wire: the real agent, the real anonymizer, real gRPC bytes, and faults at every turn.

Each request carries identifiers that exist once. All bytes towards the cloud, the outbox on disk, the log, the metrics and
the reasons of decisions are searched for them, as they are and in other writings. The figure that counts is the first: 0.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._canaries import CanaryNote, canary_notes, leaks
from benchmarks._recording_cloud import RecordingCloud
from benchmarks.line import Line, Options
from edge_agent.agent import EdgeAgent
from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.anonymize.pipelines import load_heads
from edge_agent.anonymize.registry import RECOGNIZERS, Recognizer
from edge_agent.anonymize.span import Span
from edge_agent.cloud.circuit_breaker import BreakerLimits, CircuitBreaker
from edge_agent.cloud.client import CloudClient, RetrySettings
from edge_agent.cloud.cloud import WireIds
from edge_agent.errors import EdgeError
from edge_agent.flow import Entity, LocalAnswer
from edge_agent.keystore import KeyStore
from edge_agent.metrics import Metrics
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Outbox
from edge_agent.parts import Parts
from edge_agent.trust import Trust
from partition.fingerprint import Setup
from partition.store.model_store import ModelStore
from partition.task import Policy, Task, TaskKind
from protos.errors import WireError

_REHEARSALS, _REQUESTS = 12, 880
_FIRST_SEED = 401
_BATCH, _SMALL_BATCH = 200, 40
_THREADS = 4
_CHAT = Task(name="chat", kind=TaskKind.GENERATE, policy=Policy(local_threshold=0.99))
_FAULTS = (
    "none",
    "raises",
    "none",
    "memory",
    "none",
    "none",
    "offsets",
    "none",
    "hangs",
    "none",
    "none",
)
_NEVER_OPEN = BreakerLimits(num_failures=10**6, window_calls=10**6)


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    leaks: int = 0
    leaks_at_rest: int = 0
    requests: int = 0
    sent_bytes: int = 0
    routes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count another rehearsal in."""
        self.leaks += other.leaks
        self.leaks_at_rest += other.leaks_at_rest
        self.requests += other.requests
        self.sent_bytes += other.sent_bytes
        self.routes += other.routes
        self.faults += other.faults


class FaultyRecognizer:
    """A recognizer that fails as told: the next calls meet the fault that stands in ``fault``."""

    def __init__(self) -> None:
        self.fault = "none"

    def find(self, document: MatchText) -> list[Span]:
        """Find nothing, or fail."""
        match self.fault:
            case "raises":
                raise ValueError(document.text)  # a message that quotes the text, as libraries do
            case "memory":
                raise MemoryError
            case "offsets":
                return [Span(0, len(document.text) + 5, Entity.PERSON)]
            case "hangs":
                ends_s = time.monotonic() + 5
                while time.monotonic() < ends_s and self.fault == "hangs":
                    time.sleep(0.01)
        return []


class UnsureModel:
    """A local model whose answers never stand, so that every request wants to leave."""

    fingerprint = "unsure"

    def answer(self, messages: Any, task: Any, request: Any, **options: Any) -> LocalAnswer:
        """Something, with little confidence."""
        return LocalAnswer(
            text="unsure",
            token_log_probabilities=(-2.0,),
            num_input_tokens=5,
            num_output_tokens=1,
        )

    def close(self) -> None:
        """Nothing to free."""


def run(options: Options) -> Iterator[Line]:
    """Twelve rehearsals of 880 requests, each with a seed of its own, so that every fault comes up in each; one with ``--quick``."""
    heads, version = load_heads(ModelStore(), ("en", "pt", "zh"))
    tally = Tally()
    for number in range(1 if options.quick else _REHEARSALS):
        tally.add(
            rehearse(heads, version, _REQUESTS, seed=_FIRST_SEED + number, batch=_SMALL_BATCH)
        )
    count = tally.requests
    yield Line(case="canaries on the wire", ours=tally.leaks, unit="identifiers", runs=count, less_is_better=True)  # fmt: skip
    yield Line(case="canaries in outbox, log, metrics and reasons", ours=tally.leaks_at_rest, unit="identifiers", runs=count, less_is_better=True)  # fmt: skip
    for route, number in sorted(tally.routes.items()):
        yield Line(case=f"requests that ended {route}", ours=number, unit="requests", runs=count)
    for fault, number in sorted(tally.faults.items()):
        yield Line(case=f"requests under fault {fault}", ours=number, unit="requests", runs=count)
    yield Line(case="bytes recorded", ours=tally.sent_bytes, unit="B", runs=count)


def rehearse(
    heads: dict[str, Any],
    version: str,
    count: int,
    *,
    seed: int,
    batch: int = _BATCH,
    num_threads: int = _THREADS,
) -> Tally:
    """Send ``count`` requests through an agent whose recognizers, cloud and network fail in turn.

    Args:
        heads: As :func:`edge_agent.anonymize.pipelines.load_heads` returns them.
        version: Of the anonymizer.
        count: Requests.
        seed: Of everything that is drawn.
        batch: Requests that meet the same fault.
        num_threads: Requests at once.
    """
    tally, faulty = Tally(), FaultyRecognizer()
    log = _Log()
    anonymizer = Anonymizer(
        heads,
        version=version,
        timeout_s=2.0,
        recognizers=(*RECOGNIZERS, Recognizer("faulty", faulty.find)),
    )
    impatient = Anonymizer(
        heads,
        version=version,
        timeout_s=0.02,
        timeout_s_per_4kb=0.0,
        recognizers=(*RECOGNIZERS, Recognizer("faulty", faulty.find)),
    )
    notes = canary_notes(seed=seed)
    root = logging.getLogger()
    root.addHandler(log)
    with (
        tempfile.TemporaryDirectory() as folder,
        RecordingCloud(seed=seed) as cloud,
        ThreadPoolExecutor(num_threads) as pool,
    ):
        client = _client(cloud, Path(folder))
        try:
            for index, begin in enumerate(range(0, count, batch)):
                asked = list(islice(notes, min(batch, count - begin)))
                fault = _FAULTS[index % len(_FAULTS)]
                faulty.fault = fault
                cloud.refuses = index % 5 == 4
                if index % 5 == 2:
                    cloud.cut()
                metrics = Metrics()
                outbox = _outbox(Path(folder))  # opened again, as after a crash
                agent = _agent(impatient if fault == "hangs" else anonymizer, client, outbox, metrics)  # fmt: skip
                answers = list(pool.map(lambda note, agent=agent: _ask(agent, note), asked))
                faulty.fault = "none"
                cloud.refuses = False
                if index % 5 == 4:
                    cloud.cut()
                    agent.deliver(timeout_s=20)
                _search(tally, asked, cloud, Path(folder), log, metrics, answers)
                tally.faults["network away" if index % 5 == 4 else fault] += len(asked)
                agent._parts.delivery.close()
        finally:
            client.close()
            root.removeHandler(log)
    return tally


def _ask(agent: EdgeAgent, note: CanaryNote) -> tuple[str, str]:
    """Route and everything that is said about the request; never its answer, which is for the caller alone."""
    try:
        answer = agent.ask(note.text)
    except (EdgeError, WireError) as error:
        return type(error).__name__, f"{error!r} {error}"
    return answer.route.value, f"{answer.reason} {answer!r}"


def _search(
    tally: Tally, batch: list[CanaryNote], cloud: RecordingCloud, folder: Path, log: _Log,
    metrics: Metrics, answers: list[tuple[str, str]],
) -> None:  # fmt: skip
    recorded = cloud.take()
    tally.requests += len(batch)
    tally.sent_bytes += len(recorded)
    tally.leaks += leaks(recorded, batch)
    at_rest = b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
    said = "\n".join([*log.take(), *(text for _, text in answers)]).encode("utf-8", "replace")
    tally.leaks_at_rest += leaks(at_rest[-4_000_000:] + said + metrics.render(), batch)
    tally.routes.update(route for route, _ in answers)


def _client(cloud: RecordingCloud, folder: Path) -> CloudClient:
    keys = KeyStore.open(folder / "device.key")
    return CloudClient(
        cloud.target,
        wire_ids=WireIds(keys.derive("wire-ids")),
        insecure_loopback=True,
        retry=RetrySettings(first_pause_s=0.005, max_pause_s=0.02, in_progress_pause_s=0.02),
        breaker=CircuitBreaker(_NEVER_OPEN),
        jitter=lambda: 0.0,
    )


def _outbox(folder: Path) -> Outbox:
    keys = KeyStore.open(folder / "device.key")
    return Outbox(folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids")))


def _agent(
    anonymizer: Anonymizer, client: CloudClient, outbox: Outbox, metrics: Metrics
) -> EdgeAgent:
    setup = Setup(
        model="m",
        prompt_sha256="p",
        preprocess_version="1",
        anonymizer_version=anonymizer.version,
        language="en",
    )
    return EdgeAgent(
        Parts(
            tasks={_CHAT.name: _CHAT},
            default_task=_CHAT.name,
            model=UnsureModel(),  # type: ignore[arg-type]
            anonymizer=anonymizer,
            trust=Trust(setups={_CHAT.name: setup}),
            cloud=client,
            delivery=Delivery(
                outbox,
                client,
                settings=DeliverySettings(first_pause_s=0.01, max_pause_s=0.05),
                jitter=lambda: 0.0,
            ),
            metrics=metrics,
        )
    )


class _Log(logging.Handler):
    """Keeps every line that would be written."""

    def __init__(self) -> None:
        super().__init__(level=logging.DEBUG)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}")

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines
