"""The device's client, outbox and delivery against the real cloud service, over mutual TLS and real sockets."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_service.tenancy.pki import CertificateFolder
from edge_agent.cancellation import Cancellation
from edge_agent.cloud.circuit_breaker import CircuitBreaker
from edge_agent.cloud.client import CloudClient, RetrySettings, TlsFiles
from edge_agent.cloud.cloud import (
    CloudAnswer,
    FinishReason,
    GenerateOptions,
    Outcome,
    Verdict,
    WireIds,
)
from edge_agent.keystore import KeyStore
from edge_agent.outbox.outbox import OutboxCounts, State
from protos.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    RequestCancelledError,
    RequestIdReusedError,
    UnavailableError,
)
from protos.request_id import new_request_id
from tests.cloud_harness import OTHER, SCANNER, CloudProcess, Site, cloud_process
from tests.device_harness import NEVER_OPEN, device, put
from tests.simulators import TRIAGE, TcpProxy, make_anonymized
from tests.tiny_models import make_folder

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))
IDS = WireIds(KeyStore(KEY).derive("wire-ids"))
SHORT = GenerateOptions(max_output_tokens=8)
LONG = GenerateOptions(max_output_tokens=800, temperature=1.0, top_k=50, seed=7)
PATIENT = RetrySettings(num_attempts=2000, first_pause_s=0.1, max_pause_s=0.2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    model = make_folder(tmp_path_factory.mktemp("model") / "tiny-qwen", architecture="qwen2")
    return Site.make(tmp_path_factory.mktemp("site"), model)


@pytest.fixture
def own_site(site: Site, tmp_path: Path) -> Site:
    """For the tests that start and end services themselves."""
    return Site.make(tmp_path / "site", site.model)


@pytest.fixture(scope="module")
def cloud(site: Site) -> Iterator[CloudProcess]:
    """One service for the tests that do not end it."""
    with cloud_process(site) as process:
        yield process


def tls_of(site: Site, identity: Any = SCANNER) -> TlsFiles:
    folder = CertificateFolder(site.root)
    pair = folder.device(identity)
    return TlsFiles(ca=folder.authority.certificate, certificate=pair.certificate, key=pair.key)


@contextmanager
def client_of(site: Site, address: str, **changes: Any) -> Iterator[CloudClient]:
    arguments = {"credentials": tls_of(site), "wire_ids": IDS} | changes
    client = CloudClient(address, **arguments)
    try:
        yield client
    finally:
        client.close()


def address_of(process: CloudProcess) -> str:
    return str(process.ready["address"])


def fixed_port_args(port: int) -> tuple[str, ...]:
    return ("--listen", f"127.0.0.1:{port}")


def effects_of(site: Site) -> list[tuple[str, str]]:
    """What the cloud has really computed: (request id, state) of its memory."""
    connection = sqlite3.connect(next((site.root / "state").glob("*.sqlite3")))
    rows = connection.execute("SELECT request_id, state FROM dedupe").fetchall()
    connection.close()
    return [tuple(row) for row in rows]


def ask(
    client: CloudClient, request_id: str, text: str = "Is it large?", **more: Any
) -> CloudAnswer:
    arguments = {"options": SHORT, "deadline_s": 60} | more
    return client.generate(make_anonymized(text, request_id=request_id), **arguments)


def test_answers_streams_and_replays(site: Site, cloud: CloudProcess) -> None:
    request_id, pieces = new_request_id(), []
    with client_of(site, address_of(cloud)) as client:
        answer = ask(client, request_id, on_text=pieces.append)
        assert "".join(pieces) == answer.text and not answer.replayed
        assert answer.usage.input_tokens > 0 and answer.usage.cost_micro_usd > 0
        again = ask(client, request_id)
        assert again.replayed and again.text == answer.text
        assert again.usage == answer.usage, "the stored usage: billed once"
        with pytest.raises(RequestIdReusedError):
            ask(client, request_id, text="something else")
        assert client.get_model().fingerprint == answer.fingerprint


def test_a_queued_request_is_remembered_for_longer_than_an_interactive_one(
    site: Site, cloud: CloudProcess
) -> None:
    names = {False: new_request_id(), True: new_request_id()}
    with client_of(site, address_of(cloud)) as client:
        for queued, name in names.items():
            ask(client, name, queued=queued)
    connection = sqlite3.connect(next((site.root / "state").glob("*.sqlite3")))
    kept_s = dict(connection.execute("SELECT request_id, expires - created FROM dedupe").fetchall())
    connection.close()
    assert kept_s[names[False]] < 3600
    assert kept_s[names[True]] > 80 * 86_400


def test_classifies(site: Site, cloud: CloudProcess) -> None:
    with client_of(site, address_of(cloud)) as client:
        answer = client.generate(
            make_anonymized(task=TRIAGE, request_id=new_request_id()), options=SHORT, deadline_s=60
        )
    assert answer.finish_reason is FinishReason.LABEL and answer.text in TRIAGE.labels
    best = max(answer.label_scores, key=lambda score: score.log_probability)
    assert best.label == answer.text


def test_a_callers_own_id_works_too(site: Site, cloud: CloudProcess) -> None:
    with client_of(site, address_of(cloud)) as client:
        assert ask(client, "ACC 77").text == ask(client, "ACC 77").text


def test_reports(site: Site, cloud: CloudProcess) -> None:
    outcome = Outcome(
        answered_request_id=new_request_id(),
        task="cxr-triage",
        route="LOCAL",
        score=0.25,
        fingerprint="ab12",
        verdict=Verdict.AGREES_WITH_CLOUD,
        reviewed_label="normal",
        answered_unix_ms=1_700_000_000_000,
    )
    with client_of(site, address_of(cloud)) as client:
        assert client.report("report-1", [outcome, outcome]) == 2
        assert client.report("report-1", [outcome, outcome]) == 2


def test_certificates_of_nobody(site: Site, cloud: CloudProcess, tmp_path: Path) -> None:
    model = site.model
    stranger = Site.make(tmp_path / "stranger", model)
    ours, theirs = tls_of(site), tls_of(stranger)
    mixed = TlsFiles(ca=ours.ca, certificate=theirs.certificate, key=theirs.key)
    for files in (theirs, mixed):
        with (
            client_of(site, address_of(cloud), credentials=files) as client,
            pytest.raises(UnavailableError, match="certificates"),
        ):
            ask(client, new_request_id(), num_attempts=1, deadline_s=5)


def test_another_tenant_has_its_own_ids(site: Site, cloud: CloudProcess) -> None:
    request_id = new_request_id()
    with client_of(site, address_of(cloud)) as client:
        ask(client, request_id)
    with client_of(site, address_of(cloud), credentials=tls_of(site, OTHER)) as client:
        assert not ask(client, request_id, text="something else").replayed


def test_refusals_keep_their_kind(site: Site, cloud: CloudProcess) -> None:
    with client_of(site, address_of(cloud)) as client:
        with pytest.raises(InvalidRequestError):
            ask(client, new_request_id(), text=" ")
        with pytest.raises(DeadlineExceededError):
            ask(client, new_request_id(), options=LONG, deadline_s=0.5)
        assert client.why_unavailable == ""


def test_cancelling_ends_the_work_in_the_cloud(site: Site, cloud: CloudProcess) -> None:
    cancel, request_id = Cancellation(), new_request_id()
    with client_of(site, address_of(cloud)) as client:
        begun = time.monotonic()
        with pytest.raises(RequestCancelledError):
            ask(client, request_id, options=LONG, cancel=cancel, on_text=lambda _: cancel.set())
        assert time.monotonic() - begun < 10
        # The id was given back: the same request may be asked again at once.
        assert ask(client, request_id, options=LONG).text


def test_a_reset_link_in_mid_answer(site: Site, cloud: CloudProcess) -> None:
    port = int(address_of(cloud).rpartition(":")[2])
    with TcpProxy(port) as proxy, client_of(site, proxy.target, retry=PATIENT) as client:
        pieces: list[str] = []

        def on_text(piece: str) -> None:
            pieces.append(piece)
            if len(pieces) == 3:
                proxy.reset()

        answer = ask(client, new_request_id(), options=LONG, on_text=on_text)
        assert answer.num_attempts > 1 and "".join(pieces) == answer.text
        assert b"Is it large" not in bytes(proxy.sent), "TLS, not plaintext"


def test_kill_9_of_the_cloud_in_mid_answer(own_site: Site) -> None:
    """The text the caller sees is the one it would have seen, from a service that was killed and started again."""
    request_id = new_request_id()
    with cloud_process(own_site) as first, client_of(own_site, address_of(first)) as client:
        expected = ask(client, new_request_id(), options=LONG).text
    port = int(address_of(first).rpartition(":")[2])
    pieces: list[str] = []
    killed = threading.Event()
    with cloud_process(own_site, *fixed_port_args(port)) as second:

        def on_text(piece: str) -> None:
            pieces.append(piece)
            if len(pieces) == 5:
                second.process.kill()
                killed.set()

        answers: list[CloudAnswer] = []
        with client_of(
            own_site, f"127.0.0.1:{port}", retry=PATIENT, breaker=CircuitBreaker(NEVER_OPEN)
        ) as client:
            thread = threading.Thread(
                target=lambda: answers.append(
                    ask(client, request_id, options=LONG, on_text=on_text, deadline_s=110)
                )
            )
            thread.start()
            assert killed.wait(60)
            second.process.communicate()
            with cloud_process(own_site, *fixed_port_args(port)):
                thread.join(100)
    assert answers and answers[0].text == "".join(pieces) == expected
    assert [state for known, state in effects_of(own_site) if known == request_id] == ["done"]


def test_sigterm_in_mid_answer_goes_on_elsewhere(own_site: Site) -> None:
    with cloud_process(own_site) as first, client_of(own_site, address_of(first)) as client:
        expected = ask(client, new_request_id(), options=LONG).text
    port = int(address_of(first).rpartition(":")[2])
    pieces: list[str] = []
    answers: list[CloudAnswer] = []
    told = threading.Event()
    with cloud_process(own_site, *fixed_port_args(port)) as second:

        def on_text(piece: str) -> None:
            pieces.append(piece)
            if len(pieces) == 5:
                second.process.send_signal(signal.SIGTERM)
                told.set()

        with client_of(
            own_site, f"127.0.0.1:{port}", retry=PATIENT, breaker=CircuitBreaker(NEVER_OPEN)
        ) as client:
            thread = threading.Thread(
                target=lambda: answers.append(
                    ask(client, new_request_id(), options=LONG, on_text=on_text, deadline_s=110)
                )
            )
            thread.start()
            assert told.wait(60)
            second.process.communicate(timeout=60)
            with cloud_process(own_site, *fixed_port_args(port)):
                thread.join(100)
    assert answers and answers[0].text == "".join(pieces) == expected


DEVICE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.device_harness import device

with device(Path({folder!r}), {address!r}, {tls!r}) as (delivery, outbox):
    delivery.start()
    print("ready", flush=True)
    while waiting := outbox.counts().waiting:
        print(waiting, flush=True)
        time.sleep(0.01)
    print(0, flush=True)
    time.sleep(60)
"""


@contextmanager
def device_process(folder: Path, address: str, tls: tuple[str, str, str]) -> Iterator[Any]:
    """A delivering device in a process of its own, killed at the end."""
    script = DEVICE.format(root=str(ROOT), folder=str(folder), address=address, tls=tls)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_exactly_once_with_kill_9_of_both_sides(own_site: Site, tmp_path: Path) -> None:
    """Many queued requests; device and cloud are killed on the way until all have come through: as many effects."""
    number, num_kills, chance = 60, 5, random.Random(20261122)
    names = [new_request_id() for _ in range(number)]
    files = tls_of(own_site)
    tls = (str(files.ca), str(files.certificate), str(files.key))
    with device(tmp_path, "127.0.0.1:1", tls) as (delivery, _):
        for name in names:
            put(delivery, name)
    with ExitStack() as stack:
        cloud = stack.enter_context(cloud_process(own_site))
        address = address_of(cloud)
        arguments = fixed_port_args(int(address.rpartition(":")[2]))
        for kill in range(num_kills):
            with device_process(tmp_path, address, tls) as process:
                # By progress and not by time, so that a fast machine has something left to kill, and a slow one gets on.
                _wait_until_waiting(process, number - 9 * kill - chance.randint(1, 9))
                if kill % 2:
                    cloud.process.kill()
                    cloud.process.communicate()
                    cloud = stack.enter_context(cloud_process(own_site, *arguments))
        with open_counts(tmp_path, tls) as counts:
            assert counts.waiting > 0, "all was delivered before the last kill: nothing was tested"
        with device_process(tmp_path, address, tls) as process:
            _wait_until_waiting(process, 0)
    effects = effects_of(own_site)
    assert sorted(known for known, _ in effects) == sorted(names), "each exactly once"
    assert {state for _, state in effects} == {"done"}
    with device(tmp_path, "127.0.0.1:1", tls) as (delivery, outbox):
        outbox.check_integrity()
        counts = outbox.counts()
        assert (counts.waiting, counts.done, counts.dead) == (0, number, 0)
        for name in names:
            assert outbox.state(name) is State.DONE
            answer = delivery.collect(name)
            assert answer is not None
            assert answer.request_id == name
        assert outbox.counts().stored_bytes == 0


def _wait_until_waiting(process: Any, at_most: int) -> None:
    """Read what a device process says of its outbox until no more than so many items wait."""
    for line in process.stdout:
        if int(line) <= at_most:
            return
    raise AssertionError("the device ended by itself")


@contextmanager
def open_counts(folder: Path, tls: tuple[str, str, str]) -> Iterator[OutboxCounts]:
    with device(folder, "127.0.0.1:1", tls) as (_, outbox):
        yield outbox.counts()


def test_nothing_of_a_request_in_what_the_cloud_logs(own_site: Site) -> None:
    with cloud_process(own_site) as process:
        with client_of(own_site, address_of(process)) as client:
            ask(client, new_request_id(), text="[PERSON_1] recognisable-word")
            with pytest.raises(InvalidRequestError):
                ask(client, new_request_id(), text="   ")
        _, log = process.stop()
    assert "recognisable-word" not in log
    for line in log.splitlines():
        assert "recognisable" not in json.dumps(line)
