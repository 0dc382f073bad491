"""The outside world of a device, made to order: a cloud in memory, a gRPC cloud whose answers a test writes, a bad link."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from edge_agent.anonymize.anonymized import _SEAL, Anonymized
from edge_agent.cloud.cloud import CloudAnswer, FinishReason, GenerateOptions, Outcome
from edge_agent.flow import Entity, LabelScore, Usage
from partition.extend.model_card import ModelCard
from partition.task import Message, Role, Task, TaskKind
from protos.errors import DETAILS_KEY, RequestCancelledError, UnavailableError, WireError, to_status
from protos.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc

CHAT = Task(name="assistant", kind=TaskKind.GENERATE)
TRIAGE = Task(
    name="cxr-triage",
    kind=TaskKind.CLASSIFY,
    labels=("normal", "abnormal"),
    system="You read reports.",
    template="Findings: {text}",
)


def make_anonymized(
    text: str = "[PERSON_1] has no effusion.",
    *,
    request_id: str = "0192f3a0-0000-7000-8000-000000000001",
    task: Task = CHAT,
    num_replaced: dict[Entity, int] | None = None,
) -> Anonymized:
    """Make what the anonymizer would make of a request, without the seconds it takes to load one."""
    return Anonymized(
        _SEAL,
        request_id=request_id,
        task=task,
        messages=(Message(role=Role.USER, text=text),),
        num_replaced=num_replaced or {Entity.PERSON: 1},
        language="en",
    )


class Clock:
    """Time that passes only when told; call it for the seconds."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class SimulatedCloud:
    """A cloud in memory behind the real interface (``edge_agent.cloud.cloud.Cloud``), with the real one's memory of request ids."""

    def __init__(self, text: str = "No effusion. [PERSON_1] is well.") -> None:
        self.text = text
        self.errors: list[WireError] = []  # the next calls end with these, in turn
        self.is_reachable = True
        self.received: list[Anonymized] = []
        self.effects: dict[str, CloudAnswer] = {}  # by request id: what was really computed
        self.outcomes: dict[str, tuple[Outcome, ...]] = {}
        self.why_unavailable = ""
        self.is_closed = False
        self._lock = threading.Lock()

    def generate(
        self,
        anonymized: Anonymized,
        *,
        options: GenerateOptions,
        deadline_s: float | None = None,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        num_attempts: int | None = None,
        on_sent: Callable[[int], None] | None = None,
        queued: bool = False,
    ) -> CloudAnswer:
        if type(anonymized) is not Anonymized:
            raise TypeError("only Anonymized may leave the device")
        if cancel is not None and cancel.is_set():
            raise RequestCancelledError("the request was cancelled")
        with self._lock:
            self._fail_if_told()
            self.received.append(anonymized)
            replayed = anonymized.request_id in self.effects
            if not replayed:
                self.effects[anonymized.request_id] = self._answer(anonymized)
            answer = self.effects[anonymized.request_id]
        if on_sent is not None:
            on_sent(answer.sent_bytes)
        for piece in answer.text.split(" ") if on_text is not None else ():
            on_text(piece + " ") if piece != answer.text.split(" ")[-1] else on_text(piece)
        return answer

    def get_model(self, *, deadline_s: float = 10.0) -> ModelCard:
        with self._lock:
            self._fail_if_told()
        return ModelCard(
            name="simulated",
            fingerprint="simulated-1",
            tokenizer_sha256="",
            chat_template_sha256="",
            vocabulary_size=100,
            num_layers=4,
            hidden_size=8,
            context_tokens=2048,
        )

    def report(
        self, report_id: str, outcomes: Sequence[Outcome], *, deadline_s: float = 10.0
    ) -> int:
        with self._lock:
            self._fail_if_told()
            self.outcomes.setdefault(report_id, tuple(outcomes))
        return len(outcomes)

    def close(self) -> None:
        self.is_closed = True

    def _fail_if_told(self) -> None:
        if not self.is_reachable:
            raise UnavailableError("the cloud cannot be reached")
        if self.errors:
            raise self.errors.pop(0)

    def _answer(self, anonymized: Anonymized) -> CloudAnswer:
        labels = anonymized.task.labels
        return CloudAnswer(
            text=labels[-1] if labels else self.text,
            model="simulated",
            fingerprint="simulated-1",
            finish_reason=FinishReason.LABEL if labels else FinishReason.STOP,
            label_scores=tuple(
                LabelScore(label=label, log_probability=-1.0 - index)
                for index, label in enumerate(reversed(labels))
            )[::-1],
            usage=Usage(input_tokens=10, output_tokens=5, cost_micro_usd=15),
            sent_bytes=100,
        )


Script = Callable[[inference_pb2.GenerateRequest, Any], Iterator[inference_pb2.GenerateResponse]]


def started(*, replayed: bool = False) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        started=inference_pb2.Started(model="scripted", fingerprint="f-1", replayed=replayed)
    )


def delta(text: str) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(delta=inference_pb2.Delta(text=text, num_tokens=1))


def draining(token: str) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(draining=inference_pb2.Draining(resume_token=token))


def finished(
    text: str, *, labels: Sequence[str] = (), **fields: Any
) -> inference_pb2.GenerateResponse:
    reason = inference_pb2.FINISH_REASON_LABEL if labels else inference_pb2.FINISH_REASON_STOP
    return inference_pb2.GenerateResponse(
        finished=inference_pb2.Finished(
            reason=fields.pop("reason", reason),
            text=text,
            usage=inference_pb2.Usage(input_tokens=7, output_tokens=3, cost_micro_usd=11),
            label_scores=[
                inference_pb2.LabelScore(label=label, log_probability=-1.0) for label in labels
            ],
            **fields,
        )
    )


def says(*events: inference_pb2.GenerateResponse) -> Script:
    """A script that sends these events and ends well."""

    def script(_request: Any, _context: Any) -> Iterator[inference_pb2.GenerateResponse]:
        yield from events

    return script


def answers(*pieces: str) -> Script:
    """A script that streams an answer in pieces."""
    return says(started(), *map(delta, pieces), finished("".join(pieces)))


def refuses(error: WireError, *events: inference_pb2.GenerateResponse) -> Script:
    """A script that sends these events and then ends with an error, rich as our servers send it."""

    def script(_request: Any, context: Any) -> Iterator[inference_pb2.GenerateResponse]:
        yield from events
        context.set_trailing_metadata(((DETAILS_KEY, to_status(error).SerializeToString()),))
        context.abort(error.code, error.message)

    return script


def hangs(*events: inference_pb2.GenerateResponse) -> Script:
    """A script that sends these events and then nothing, until the caller is gone."""

    def script(_request: Any, context: Any) -> Iterator[inference_pb2.GenerateResponse]:
        yield from events
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(30)

    return script


class ScriptedCloud(
    inference_pb2_grpc.InferenceServiceServicer, feedback_pb2_grpc.FeedbackServiceServicer
):
    """A real gRPC server that says what a test wrote; the last script is repeated."""

    def __init__(self, *scripts: Script, credentials: grpc.ServerCredentials | None = None) -> None:
        self.scripts = list(scripts)
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.reports: list[feedback_pb2.ReportRequest] = []
        self.get_model_failures = 0  # UNAVAILABLE this often first
        self.num_get_model = 0
        self.num_in_flight = 0
        self._credentials = credentials
        self._lock = threading.Lock()
        self.port = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, options=(("grpc.so_reuseport", 0),))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        self.port = (
            self._server.add_insecure_port(address)
            if self._credentials is None
            else self._server.add_secure_port(address, self._credentials)
        )
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def Generate(  # noqa: N802  # gRPC's name
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> Iterator[inference_pb2.GenerateResponse]:
        with self._lock:
            self.requests.append(request)
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self.num_in_flight += 1
        try:
            yield from script(request, context)
        finally:
            with self._lock:
                self.num_in_flight -= 1

    def GetModel(  # noqa: N802  # gRPC's name
        self, _request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        self.num_get_model += 1
        if self.num_get_model <= self.get_model_failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return inference_pb2.GetModelResponse(model="scripted", fingerprint="f-1", num_layers=4)

    def Report(  # noqa: N802  # gRPC's name
        self, request: feedback_pb2.ReportRequest, _context: Any
    ) -> feedback_pb2.ReportResponse:
        self.reports.append(request)
        return feedback_pb2.ReportResponse(num_stored=len(request.outcomes))

    def wait_until_idle(self, timeout_s: float = 5.0) -> bool:
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at:
            if self.num_in_flight == 0:
                return True
            time.sleep(0.01)
        return False


class TcpProxy:
    """A link between two ports of this machine that can be cut, stopped and slowed. Records what passes upwards."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.delay_s = 0.0  # before each piece, in both directions
        self.sent = bytearray()  # from the client
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._flows.set()
        # A thread blocked in accept is not woken by close alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()
        for thread in self._threads:
            thread.join(5)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Cut every connection at once, with RST; new ones are welcome."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def refuse(self, refuses: bool = True) -> None:
        """Close new connections at once, or accept them again."""
        self._refuses = refuses

    def half_open(self) -> None:
        """Keep the connections and pass nothing on: neither end hears of it."""
        self._flows.clear()

    def flow(self) -> None:
        """Pass on again."""
        self._flows.set()

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            self._run(self._pump, client, server, self.sent)
            self._run(self._pump, server, client, None)

    def _pump(self, source: socket.socket, sink: socket.socket, record: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                self._flows.wait()
                if self.delay_s:
                    time.sleep(self.delay_s)
                if record is not None:
                    record += piece
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
