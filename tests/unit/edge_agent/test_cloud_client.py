"""The client against real gRPC servers on loopback that say what each test wrote."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from edge_agent.cancellation import Cancellation
from edge_agent.cloud.channel import CHANNEL_RETRIES, CHECK_FILES_EVERY_S
from edge_agent.cloud.circuit_breaker import CircuitBreaker
from edge_agent.cloud.client import ChannelSettings, CloudClient, RetrySettings, TlsFiles
from edge_agent.cloud.cloud import (
    CloudAnswer,
    FinishReason,
    GenerateOptions,
    Outcome,
    Verdict,
    WireIds,
)
from edge_agent.errors import ConfigError, RequestStoppedError
from edge_agent.flow import Request
from edge_agent.metrics import Metrics
from protos.errors import (
    DeadlineExceededError,
    DrainingError,
    InProgressError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestCancelledError,
    RequestIdReusedError,
    UnavailableError,
    WireError,
)
from protos.inference.v1 import inference_pb2
from protos.request_id import is_request_id
from tests.simulators import (
    CHAT,
    TRIAGE,
    Clock,
    Script,
    ScriptedCloud,
    TcpProxy,
    answers,
    delta,
    draining,
    finished,
    hangs,
    make_anonymized,
    refuses,
    says,
    started,
)

OPTIONS = GenerateOptions(max_output_tokens=20)
FAST = RetrySettings(first_pause_s=0.01, max_pause_s=0.02, in_progress_pause_s=0.01)
IDS = WireIds(bytes(32))


@contextmanager
def client_of(target: str, **changes: Any) -> Iterator[CloudClient]:
    arguments: dict[str, Any] = {
        "wire_ids": IDS,
        "insecure_loopback": True,
        "retry": FAST,
    } | changes
    client = CloudClient(target, **arguments)
    try:
        yield client
    finally:
        client.close()


def ask(
    *scripts: Script, task: Any = CHAT, **arguments: Any
) -> tuple[CloudAnswer, str, ScriptedCloud]:
    """Ask a cloud with these scripts once; return the answer, what was streamed, and the cloud."""
    pieces: list[str] = []
    with ScriptedCloud(*scripts) as cloud, client_of(cloud.target) as client:
        answer = client.generate(
            make_anonymized(task=task),
            options=OPTIONS,
            deadline_s=10,
            **({"on_text": pieces.append} | arguments),
        )
        assert cloud.wait_until_idle()
    return answer, "".join(pieces), cloud


def test_answer() -> None:
    answer, text, cloud = ask(answers("No ", "effusion."))
    assert text == answer.text == "No effusion."
    assert (answer.model, answer.fingerprint, answer.replayed) == ("scripted", "f-1", False)
    assert answer.finish_reason is FinishReason.STOP and answer.num_attempts == 1
    assert answer.usage.input_tokens == 7 and answer.usage.cost_micro_usd == 11
    (request,) = cloud.requests
    assert answer.sent_bytes == request.ByteSize() + 5
    assert answer.first_text_ms is not None and answer.first_text_ms > 0


def test_sends_the_rendered_prompt_and_nothing_else() -> None:
    labels = says(started(), finished("abnormal", labels=TRIAGE.labels))
    answer, _, cloud = ask(labels, task=TRIAGE)
    (request,) = cloud.requests
    assert [(m.role, m.text) for m in request.messages] == [
        (inference_pb2.ROLE_SYSTEM, "You read reports."),
        (inference_pb2.ROLE_USER, "Findings: [PERSON_1] has no effusion."),
    ]
    assert list(request.labels) == ["normal", "abnormal"] and request.task == "cxr-triage"
    assert request.max_output_tokens == 20
    assert answer.text == "abnormal" and answer.finish_reason is FinishReason.LABEL
    assert [score.label for score in answer.label_scores] == ["normal", "abnormal"]


class LooksLikeAnonymized:
    """Has every attribute, and is not it."""

    request_id, task, messages, num_replaced, language = "id", CHAT, (), {}, "en"


@pytest.mark.parametrize("thing", ["text", None, LooksLikeAnonymized()])
def test_takes_nothing_but_anonymized(thing: Any) -> None:
    with ScriptedCloud(answers("x")) as cloud, client_of(cloud.target) as client:
        with pytest.raises(TypeError, match="only Anonymized"):
            client.generate(thing, options=OPTIONS)
        assert not cloud.requests


def test_a_callers_own_id_does_not_leave() -> None:
    with ScriptedCloud(answers("x")) as cloud, client_of(cloud.target) as client:
        for request_id in ("ACC-1234567 Fictitious", "ACC-1234567 Fictitious", "\ud800"):
            client.generate(make_anonymized(request_id=request_id), options=OPTIONS)
        sent = [request.request_id for request in cloud.requests]
    assert all(map(is_request_id, sent)) and sent[0] == sent[1] != sent[2]
    assert WireIds(bytes(32)).of("a") != WireIds(b"k" * 32).of("a")
    own = "0192f3a0-0000-7000-8000-000000000001"
    assert IDS.of(own) == own


def test_stop_strings_that_could_hold_an_identifier_do_not_leave() -> None:
    request = Request(id="i", task="assistant", stop=("\n\n", "Fictitious", "###", "7", "病"))
    assert GenerateOptions.of(request, CHAT).stop == ("\n\n", "###")


@pytest.mark.parametrize("on_text", [True, False])
@pytest.mark.parametrize(
    "broken",
    [
        refuses(UnavailableError("gone")),
        refuses(UnavailableError("gone"), started()),
        refuses(UnavailableError("gone"), started(), delta("No eff")),
        says(started(), delta("No")),
        says(),
    ],
)
def test_a_broken_stream_is_asked_again_under_the_same_id(broken: Script, on_text: bool) -> None:
    extra = {} if on_text else {"on_text": None}
    answer, text, cloud = ask(broken, answers("No ", "effusion."), **extra)
    assert answer.text == "No effusion." and text == ("No effusion." if on_text else "")
    assert len(cloud.requests) == answer.num_attempts == 2
    assert cloud.requests[0] == cloud.requests[1]
    assert answer.sent_bytes == sum(request.ByteSize() + 5 for request in cloud.requests)


def test_goes_on_elsewhere_after_draining() -> None:
    answer, text, cloud = ask(
        says(started(), delta("No "), draining("token-1")),
        refuses(DrainingError("going"), started(), delta("eff"), draining("token-2")),
        says(started(), delta("usion."), finished("No effusion.")),
    )
    assert text == answer.text == "No effusion."
    assert [request.resume_token for request in cloud.requests] == ["", "token-1", "token-2"]


@pytest.mark.parametrize("error", [InvalidRequestError("?"), NotFoundError("?")])
def test_a_resume_token_nobody_knows_is_forgotten(error: WireError) -> None:
    answer, text, cloud = ask(
        says(started(), delta("No "), draining("token-1")),
        refuses(error, started()),
        answers("No ", "effusion."),
    )
    assert text == answer.text == "No effusion."
    assert [request.resume_token for request in cloud.requests] == ["", "token-1", ""]


def test_a_replay_has_no_pieces() -> None:
    answer, text, _ = ask(
        refuses(UnavailableError("gone"), started(), delta("No ")),
        says(started(replayed=True), finished("No effusion.")),
    )
    assert answer.replayed and text == "No effusion."


def test_waits_while_another_call_answers() -> None:
    busy = refuses(InProgressError("wait", retry_after_s=0.01))
    answer, _, cloud = ask(busy, busy, busy, busy, busy, busy, answers("x"))
    assert answer.num_attempts == len(cloud.requests) == 7


def test_another_answer_after_a_break_is_an_error() -> None:
    with pytest.raises(InternalError, match="goes on differently"):
        ask(refuses(UnavailableError("gone"), started(), delta("No ")), answers("Yes"))
    answer, _, _ = ask(
        refuses(UnavailableError("gone"), started(), delta("No ")), answers("Yes"), on_text=None
    )
    assert answer.text == "Yes", "who has seen nothing is not told"


@pytest.mark.parametrize(
    ("error", "num_calls"),
    [
        (InvalidRequestError("wrong"), 1),
        (RequestIdReusedError("reused"), 1),
        (PermissionDeniedError("no"), 1),
        (InternalError("bug"), 1),
        (DeadlineExceededError("late"), 1),
        (UnavailableError("gone"), 4),
        (QuotaExceededError("full", retry_after_s=0.01, quota="requests"), 4),
    ],
)
def test_errors_keep_their_kind_and_say_who_tries_again(error: WireError, num_calls: int) -> None:
    with ScriptedCloud(refuses(error)) as cloud, client_of(cloud.target) as client:
        with pytest.raises(type(error)) as caught:
            client.generate(make_anonymized(), options=OPTIONS, deadline_s=10)
        assert type(caught.value) is type(error) and caught.value.message == error.message
        assert len(cloud.requests) == num_calls
        assert caught.value.quota == error.quota


def test_who_tries_again_may_say_so_himself() -> None:
    with (
        ScriptedCloud(refuses(UnavailableError("gone"))) as cloud,
        client_of(cloud.target) as client,
    ):
        with pytest.raises(UnavailableError):
            client.generate(make_anonymized(), options=OPTIONS, num_attempts=1)
        assert len(cloud.requests) == 1


def test_does_not_wait_beyond_the_deadline() -> None:
    slow = refuses(QuotaExceededError("full", retry_after_s=30))
    with ScriptedCloud(slow) as cloud, client_of(cloud.target) as client:
        begun = time.monotonic()
        with pytest.raises(QuotaExceededError):
            client.generate(make_anonymized(), options=OPTIONS, deadline_s=5)
        assert time.monotonic() - begun < 2 and len(cloud.requests) == 1


@pytest.mark.parametrize("script", [hangs(), hangs(started(), delta("No "))])
def test_the_deadline_ends_a_hanging_call(script: Script) -> None:
    with ScriptedCloud(script) as cloud, client_of(cloud.target) as client:
        with pytest.raises(DeadlineExceededError):
            client.generate(make_anonymized(), options=OPTIONS, deadline_s=0.2)
        assert cloud.wait_until_idle()
        with pytest.raises(DeadlineExceededError):
            client.generate(make_anonymized(), options=OPTIONS, deadline_s=0)


@pytest.mark.parametrize(
    "script",
    [
        says(delta("No beginning")),
        says(inference_pb2.GenerateResponse()),
        says(started(), finished("x", reason=inference_pb2.FINISH_REASON_UNSPECIFIED)),
        says(started(), finished("x", labels=["x"])),
        says(started(), finished("x"), delta("more")),
        says(started(), *[delta("x" * 100_000)] * 11),
    ],
)
def test_nonsense_is_an_error_in_one_sentence(script: Script) -> None:
    with pytest.raises(InternalError, match="report it"):
        ask(script)


@pytest.mark.parametrize(
    "event",
    [
        finished("Fictitious", labels=["normal", "abnormal"]),
        finished("normal", labels=["normal"]),
        finished("normal", labels=["abnormal", "normal"]),
        finished("normal"),
    ],
)
def test_an_answer_that_is_no_label_is_an_error(event: Any) -> None:
    with pytest.raises(InternalError) as caught:
        ask(says(started(), event), task=TRIAGE)
    assert "Fictitious" not in str(caught.value)


class _Garbage(grpc.GenericRpcHandler):
    """Answers every method with bytes that are no message."""

    def service(self, _details: Any) -> Any:
        def stream(_request: bytes, _context: Any) -> Iterator[bytes]:
            yield b"\xff" * 50

        return grpc.unary_stream_rpc_method_handler(stream)


def test_garbage_bytes_are_an_error_in_one_sentence() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, handlers=(_Garbage(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with client_of(f"127.0.0.1:{port}") as client, pytest.raises(InternalError) as caught:
            client.generate(make_anonymized(), options=OPTIONS)
        assert "\\xff" not in str(caught.value) and "server's log" in str(caught.value)
        server.stop(0).wait()


def test_something_that_is_no_grpc_server() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with client_of(f"127.0.0.1:{port}") as client, pytest.raises(UnavailableError):
            client.generate(make_anonymized(), options=OPTIONS, num_attempts=1, deadline_s=5)
        thread.join(5)


def test_what_the_reader_raises_ends_the_call() -> None:
    def on_text(_piece: str) -> None:
        raise RequestStoppedError("enough")

    with ScriptedCloud(hangs(started(), delta("No "))) as cloud, client_of(cloud.target) as client:
        with pytest.raises(RequestStoppedError):
            client.generate(make_anonymized(), options=OPTIONS, on_text=on_text)
        assert cloud.wait_until_idle()
        assert client.why_unavailable == ""


@pytest.mark.parametrize("script", [hangs(), hangs(started(), delta("No "))])
def test_cancelling_from_another_thread(script: Script) -> None:
    cancel = Cancellation()
    with ScriptedCloud(script) as cloud, client_of(cloud.target) as client:
        threading.Timer(0.2, cancel.set).start()
        begun = time.monotonic()
        with pytest.raises(RequestCancelledError):
            client.generate(make_anonymized(), options=OPTIONS, cancel=cancel)
        assert time.monotonic() - begun < 3 and cloud.wait_until_idle()
        with pytest.raises(RequestCancelledError):
            client.generate(make_anonymized(), options=OPTIONS, cancel=cancel)
        assert len(cloud.requests) == 1


def test_cancelling_ends_the_pause_between_attempts() -> None:
    cancel = Cancellation()
    slow = refuses(QuotaExceededError("full", retry_after_s=30))
    with ScriptedCloud(slow) as cloud, client_of(cloud.target) as client:
        threading.Timer(0.2, cancel.set).start()
        begun = time.monotonic()
        with pytest.raises(RequestCancelledError):
            client.generate(make_anonymized(), options=OPTIONS, cancel=cancel, deadline_s=60)
        assert time.monotonic() - begun < 3


def test_closing_ends_running_calls() -> None:
    with ScriptedCloud(hangs(started())) as cloud, client_of(cloud.target) as client:
        threading.Timer(0.2, client.close).start()
        with pytest.raises(WireError):
            client.generate(make_anonymized(), options=OPTIONS)
        with pytest.raises(UnavailableError, match="closed"):
            client.generate(make_anonymized(), options=OPTIONS)


def test_an_abandoned_stream_does_not_live_on() -> None:
    """Guards the pin of grpcio (grpc/grpc issue 43462)."""
    for _ in range(5):
        with pytest.raises(InternalError):
            ask(hangs(delta("no beginning")))
    gc.collect()


def test_breaker_counts_calls_and_says_why() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock=clock)
    with (
        ScriptedCloud(refuses(UnavailableError("gone"))) as cloud,
        client_of(cloud.target, breaker=breaker) as client,
    ):
        for _ in range(2):
            with pytest.raises(UnavailableError):
                client.generate(make_anonymized(), options=OPTIONS)
        assert len(cloud.requests) == 5, "the breaker ends the second round of attempts"
        assert "10 s more" in client.why_unavailable
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="left alone"):
            client.generate(make_anonymized(), options=OPTIONS)
        assert len(cloud.requests) == 5 and time.monotonic() - begun < 0.1
        clock.advance(11)
        assert client.why_unavailable == ""
        cloud.scripts = [answers("x")]
        client.generate(make_anonymized(), options=OPTIONS)


@pytest.mark.parametrize(
    "error", [InvalidRequestError("?"), QuotaExceededError("?", retry_after_s=99)]
)
def test_a_refusal_shows_that_the_cloud_is_there(error: WireError) -> None:
    with ScriptedCloud(refuses(error)) as cloud, client_of(cloud.target) as client:
        for _ in range(30):
            with pytest.raises(type(error)):
                client.generate(make_anonymized(), options=OPTIONS, deadline_s=5)
        assert client.why_unavailable == ""


def test_get_model_is_tried_again_by_the_channel_alone() -> None:
    with ScriptedCloud(answers("x")) as cloud, client_of(cloud.target) as client:
        cloud.get_model_failures = 2
        assert client.get_model().fingerprint == "f-1"
        assert cloud.num_get_model == 3
        cloud.get_model_failures = 1000
        with pytest.raises(UnavailableError):
            client.get_model()
        assert cloud.num_get_model == 3 + 4
    assert {
        "service": "tandem.inference.v1.InferenceService",
        "method": "GetModel",
    } in CHANNEL_RETRIES
    assert all(name["method"] != "Generate" for name in CHANNEL_RETRIES)


def test_report_sends_wire_ids_only() -> None:
    outcome = Outcome(
        answered_request_id="ACC-1",
        task="cxr-triage",
        route="LOCAL",
        score=1.5,
        fingerprint="ab",
        verdict=Verdict.WRONG,
        reviewed_label="normal",
        answered_unix_ms=5,
    )
    with ScriptedCloud(answers("x")) as cloud, client_of(cloud.target) as client:
        assert client.report("report 1", [outcome]) == 1
        (report,) = cloud.reports
    assert report.request_id == IDS.of("report 1")
    assert report.outcomes[0].answered_request_id == IDS.of("ACC-1")
    assert report.outcomes[0].verdict == 2


def test_metrics_count_every_attempt() -> None:
    metrics = Metrics()
    with (
        ScriptedCloud(refuses(UnavailableError("gone")), answers("x")) as cloud,
        client_of(cloud.target, metrics=metrics) as client,
    ):
        answer = client.generate(make_anonymized(), options=OPTIONS)
    names = {"service": "tandem.inference.v1.InferenceService", "method": "Generate"}
    value = metrics.registry.get_sample_value
    assert value("tandem_rpc_started_total", names) == 2
    assert value("tandem_rpc_handled_total", names | {"code": "OK"}) == 1
    assert value("tandem_rpc_handled_total", names | {"code": "UNAVAILABLE"}) == 1
    assert value("tandem_rpc_retries_total") == 1 and value("tandem_rpc_in_flight") == 0
    assert value("tandem_rpc_bytes_total", {"direction": "sent"}) == answer.sent_bytes


# --- where to, and how


@pytest.mark.parametrize(
    "target",
    [
        "cloud.example:8443",
        "10.0.0.1:80",
        "127.0.0.1.evil.example:1",
        "localhost.evil:1",
        "8.8.8.8:1",
    ],
)
def test_plaintext_stays_on_this_machine(target: str) -> None:
    with pytest.raises(ConfigError, match="plaintext"):
        CloudClient(target, wire_ids=IDS, insecure_loopback=True)


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1", "unix:/x"]
)
def test_plaintext_needs_to_be_asked_for(target: str) -> None:
    CloudClient(target, wire_ids=IDS, insecure_loopback=True).close()
    with pytest.raises(ConfigError):
        CloudClient(target, wire_ids=IDS)


def test_options_fit_the_rules() -> None:
    options = dict(ChannelSettings().options())
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.max_receive_message_length"] == 8 * 1024 * 1024
    assert options["grpc.enable_http_proxy"] == 0, "the environment is not asked"
    config = json.loads(str(options["grpc.service_config"]))
    (method,) = config["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert (
        dict(ChannelSettings(http_proxy="http://p:1").options())["grpc.http_proxy"] == "http://p:1"
    )


# --- certificates


def write_tls(folder: Path, ca: trustme.CA, name: str = "device.test") -> TlsFiles:
    certificate = ca.issue_cert(name)
    folder.mkdir(exist_ok=True)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "device.pem")
    certificate.private_key_pem.write_to_path(folder / "device.key")
    return TlsFiles(
        ca=folder / "ca.pem", certificate=folder / "device.pem", key=folder / "device.key"
    )


def server_credentials(ca: trustme.CA) -> grpc.ServerCredentials:
    certificate = ca.issue_cert("127.0.0.1")
    return grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())],
        root_certificates=ca.cert_pem.bytes(),
        require_client_auth=True,
    )


def test_mutual_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    files = write_tls(tmp_path, ca)
    with (
        ScriptedCloud(answers("x"), credentials=server_credentials(ca)) as cloud,
        client_of(cloud.target, credentials=files, insecure_loopback=False) as client,
    ):
        assert client.generate(make_anonymized(), options=OPTIONS).text == "x"


@pytest.mark.parametrize("whose", ["server", "device"])
def test_a_certificate_of_another_ca_is_refused(tmp_path: Path, whose: str) -> None:
    ours, other = trustme.CA(), trustme.CA()
    files = write_tls(tmp_path, ours)
    if whose == "device":  # the server's root stays ours, so only the server refuses
        stranger = write_tls(tmp_path / "other", other)
        files = TlsFiles(ca=files.ca, certificate=stranger.certificate, key=stranger.key)
    credentials = server_credentials(other if whose == "server" else ours)
    with (
        ScriptedCloud(answers("x"), credentials=credentials) as cloud,
        client_of(cloud.target, credentials=files, insecure_loopback=False) as client,
    ):
        with pytest.raises(UnavailableError, match="certificates"):
            client.generate(make_anonymized(), options=OPTIONS, num_attempts=1, deadline_s=5)
        assert not cloud.requests


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda files, _: files.certificate.unlink(), "device.pem"),
        (lambda files, _: files.ca.write_text("no certificate"), "ca.pem"),
        (lambda files, _: files.certificate.write_bytes(b"\xff" * 99), "device.pem"),
        (lambda files, _: files.key.write_text("no key"), "device.key"),
        (lambda files, other: files.key.write_bytes(other.key.read_bytes()), "belong together"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, spoil: Callable[[TlsFiles, TlsFiles], Any], named: str
) -> None:
    ca = trustme.CA()
    files, other = write_tls(tmp_path, ca), write_tls(tmp_path / "other", ca)
    spoil(files, other)
    with client_of("127.0.0.1:1", credentials=files, insecure_loopback=False) as client:
        with pytest.raises(ConfigError, match=named):
            client.generate(make_anonymized(), options=OPTIONS)
        assert client.why_unavailable == ""


def test_new_certificates_swap_the_channel_without_a_lost_call(tmp_path: Path) -> None:
    ca, clock, metrics = trustme.CA(), Clock(), Metrics()
    files = write_tls(tmp_path, ca)
    release = threading.Event()

    def slow(_request: Any, _context: Any) -> Iterator[inference_pb2.GenerateResponse]:
        yield started()
        release.wait(10)
        yield finished("slow")

    def swaps() -> float | None:
        return metrics.registry.get_sample_value("tandem_channel_swaps_total")

    with (
        ScriptedCloud(slow, answers("x"), credentials=server_credentials(ca)) as cloud,
        client_of(
            cloud.target, credentials=files, insecure_loopback=False, metrics=metrics, clock=clock
        ) as client,
    ):
        got: list[str] = []
        thread = threading.Thread(
            target=lambda: got.append(client.generate(make_anonymized(), options=OPTIONS).text)
        )
        thread.start()
        while not cloud.requests:
            time.sleep(0.01)
        write_tls(tmp_path, ca)  # renewed
        clock.advance(CHECK_FILES_EVERY_S + 1)
        assert client.generate(make_anonymized(), options=OPTIONS).text == "x"
        assert swaps() == 1
        files.key.write_text("half writ")  # a renewal under way: the last good pair serves on
        clock.advance(CHECK_FILES_EVERY_S + 1)
        assert client.generate(make_anonymized(), options=OPTIONS).text == "x"
        assert swaps() == 1
        release.set()
        thread.join(10)
        assert got == ["slow"], "a call that began on the old channel ends on it"


# --- bad links


def test_a_reset_in_mid_stream_is_survived() -> None:
    with TcpProxyTo(answers("No ", "effusion.")) as (cloud, proxy):

        def cut(_request: Any, _context: Any) -> Iterator[inference_pb2.GenerateResponse]:
            yield started()
            yield delta("No ")
            time.sleep(0.1)
            proxy.reset()
            yield delta("eff")

        cloud.scripts.insert(0, cut)
        pieces: list[str] = []
        with client_of(proxy.target) as client:
            answer = client.generate(
                make_anonymized(), options=OPTIONS, deadline_s=10, on_text=pieces.append
            )
        assert answer.text == "".join(pieces) == "No effusion." and answer.num_attempts == 2


def test_a_half_open_link_is_noticed() -> None:
    settings = ChannelSettings(keepalive_time_s=1, keepalive_timeout_s=0.5)
    with (
        TcpProxyTo(hangs(started())) as (cloud, proxy),
        client_of(proxy.target, settings=settings) as client,
    ):
        threading.Timer(0.3, proxy.half_open).start()
        begun = time.monotonic()
        with pytest.raises(UnavailableError):
            client.generate(make_anonymized(), options=OPTIONS, deadline_s=30, num_attempts=1)
        assert time.monotonic() - begun < 10
        assert len(cloud.requests) == 1


def test_a_slow_link_only_costs_time() -> None:
    with TcpProxyTo(answers("x")) as (_, proxy), client_of(proxy.target) as client:
        proxy.delay_s = 0.05
        assert client.generate(make_anonymized(), options=OPTIONS, deadline_s=10).text == "x"


def test_the_cloud_comes_back_after_a_restart() -> None:
    with ScriptedCloud(answers("x")) as cloud:
        port = cloud.port
        client = CloudClient(cloud.target, wire_ids=IDS, insecure_loopback=True, retry=FAST)
        assert client.generate(make_anonymized(), options=OPTIONS).text == "x"
    with pytest.raises(UnavailableError):
        client.generate(make_anonymized(), options=OPTIONS, num_attempts=1)
    again = ScriptedCloud(answers("y"))
    again.port = port
    retry = RetrySettings(num_attempts=40, first_pause_s=0.2, max_pause_s=0.2)
    with again, client_of(f"127.0.0.1:{port}", retry=retry) as fresh:
        assert fresh.generate(make_anonymized(), options=OPTIONS, deadline_s=10).text == "y"
    client.close()


@contextmanager
def TcpProxyTo(*scripts: Script) -> Iterator[tuple[ScriptedCloud, TcpProxy]]:  # noqa: N802  # reads as one
    with ScriptedCloud(*scripts) as cloud, TcpProxy(cloud.port) as proxy:
        yield cloud, proxy


def test_no_identifier_passes_a_recorded_link() -> None:
    with TcpProxyTo(answers("x")) as (_, proxy), client_of(proxy.target) as client:
        anonymized = make_anonymized("[PERSON_1] coughs", request_id="MRN-7788")
        client.generate(anonymized, options=OPTIONS)
        sent = bytes(proxy.sent)
    assert b"coughs" in sent, "the link is recorded before TLS"
    assert b"MRN-7788" not in sent


def test_bytes_of_failed_calls_are_told_too() -> None:
    sent: list[int] = []
    with (
        ScriptedCloud(refuses(UnavailableError("gone"))) as cloud,
        client_of(cloud.target) as client,
    ):
        with pytest.raises(UnavailableError):
            client.generate(make_anonymized(), options=OPTIONS, on_sent=sent.append)
        assert sent == [request.ByteSize() + 5 for request in cloud.requests]


def test_a_stream_that_the_server_cancels_is_asked_again() -> None:
    cut = refuses(
        RequestCancelledError("cut off by a server that stops"), started(), delta("No eff")
    )
    with ScriptedCloud(cut, answers("No eff", "usion")) as cloud, client_of(cloud.target) as client:
        pieces: list[str] = []
        answer = client.generate(
            make_anonymized(), options=GenerateOptions(max_output_tokens=8), on_text=pieces.append
        )
    assert answer.text == "".join(pieces) == "No effusion"
    assert answer.num_attempts == 2
