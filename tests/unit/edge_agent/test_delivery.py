"""Delivery with a real outbox and a cloud in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cloud.cloud import Outcome, Verdict
from edge_agent.errors import InputError, OutboxConflictError, OutboxError
from edge_agent.flow import Entity, Request, Route
from edge_agent.metrics import Metrics
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Kind, Outbox, State
from edge_agent.vault import Vault
from protos.errors import (
    DeadlineExceededError,
    InProgressError,
    InternalError,
    InvalidRequestError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestIdReusedError,
    UnavailableError,
    UnsupportedError,
    WireError,
)
from tests.outbox_helpers import open_outbox
from tests.simulators import CHAT, TRIAGE, SimulatedCloud, make_anonymized

FAST = DeliverySettings(
    first_pause_s=0.01, max_pause_s=0.02, idle_pause_s=0.05, attempt_deadline_s=5, max_attempts=3
)
ORIGINAL = "Joana Q. Fictitious"


def vault_of(original: str = ORIGINAL) -> Vault:
    vault = Vault()
    vault.put("[PERSON_1]", Entity.PERSON, original)
    return vault


def put(delivery: Delivery, request_id: str, text: str = "t", task: Any = CHAT) -> None:
    vault = vault_of()
    delivery.put(
        make_anonymized(f"[PERSON_1] {text}", request_id=request_id, task=task),
        vault,
        Request(id=request_id, task=task.name, text=f"{ORIGINAL} {text}", max_output_tokens=33),
        task,
    )
    vault.wipe()  # as the agent does when the request is answered


@contextmanager
def delivering(
    folder: Path, cloud: SimulatedCloud | None, **changes: Any
) -> Iterator[tuple[Delivery, Outbox]]:
    metrics = changes.pop("metrics", None)
    outbox = open_outbox(folder, metrics=metrics)
    delivery = Delivery(outbox, cloud, **{"settings": FAST, "jitter": lambda: 1.0} | changes)
    try:
        yield delivery, outbox
    finally:
        delivery.close()


def wait_for(condition: Any, timeout_s: float = 10.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, "it never came true"
        time.sleep(0.01)


def test_delivers_and_hands_out_the_restored_answer(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    with delivering(tmp_path, cloud) as (delivery, outbox):
        put(delivery, "r-1")
        assert delivery.collect("r-1") is None
        assert delivery.deliver(timeout_s=5) == 0
        for keep in (True, True, False):
            answer = delivery.collect("r-1", keep=keep)
            assert answer is not None
            assert answer.text == f"No effusion. {ORIGINAL} is well."
        assert answer.route is Route.CLOUD and answer.request_id == "r-1"
        assert answer.sent_bytes == 100 and answer.num_replaced == {Entity.PERSON: 1}
        assert answer.usage.cost_micro_usd == 15 and answer.latency_ms["total"] > 0
        with pytest.raises(InputError, match="ask it again"):
            delivery.collect("r-1")
        assert outbox.counts().stored_bytes == 0
    (received,) = cloud.received
    assert received.messages[0].text == "[PERSON_1] t"


def test_a_changed_task_file_changes_nothing_that_waits(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    with delivering(tmp_path, None) as (delivery, _):
        put(delivery, "r-1", task=TRIAGE)
        assert delivery.deliver(timeout_s=1) == 1, "no cloud, no delivery"
    with delivering(tmp_path, cloud) as (delivery, _):
        assert delivery.deliver(timeout_s=5) == 0
    assert cloud.received[0].task == TRIAGE


def test_in_order_and_in_the_background(tmp_path: Path) -> None:
    cloud, answered = SimulatedCloud(), []
    with delivering(tmp_path, cloud, on_answer=answered.append) as (delivery, _):
        delivery.start()
        delivery.start()
        for index in range(20):
            put(delivery, f"r-{index}")
        wait_for(lambda: len(answered) == 20)
    assert answered == [f"r-{index}" for index in range(20)]


def test_no_thread_before_start_and_none_after_close(tmp_path: Path) -> None:
    before = threading.active_count()
    with delivering(tmp_path, SimulatedCloud()) as (delivery, _):
        assert threading.active_count() == before + 1, "the outbox's own"
        delivery.start()
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    delivery.close()
    delivery.start()
    assert threading.active_count() == before


def test_waits_for_the_cloud_without_blaming_the_item(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.is_reachable = False
    with delivering(tmp_path, cloud) as (delivery, outbox):
        delivery.start()
        put(delivery, "r-1")
        time.sleep(0.3)  # far more attempts than max_attempts
        assert outbox.state("r-1") in (State.READY, State.LEASED) and not cloud.effects
        cloud.is_reachable = True
        wait_for(lambda: outbox.state("r-1") is State.DONE)
        assert delivery.counts().waiting == 0


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("gone"),
        PermissionDeniedError("enrol first"),
        QuotaExceededError("full", retry_after_s=0.01),
        InProgressError("wait", retry_after_s=0.01),
    ],
)
def test_what_is_not_the_items_fault_passes(tmp_path: Path, error: WireError) -> None:
    cloud = SimulatedCloud()
    cloud.errors = [error] * 10
    with delivering(tmp_path, cloud) as (delivery, _):
        put(delivery, "r-1")
        assert delivery.deliver(timeout_s=10) == 0
        assert delivery.collect("r-1") is not None and len(cloud.effects) == 1


@pytest.mark.parametrize(
    "error",
    [InvalidRequestError("too long"), RequestIdReusedError("reused"), UnsupportedError("cannot")],
)
def test_what_the_cloud_refuses_ends_dead_and_loud(
    tmp_path: Path, error: WireError, caplog: pytest.LogCaptureFixture
) -> None:
    cloud, metrics = SimulatedCloud(), Metrics()
    cloud.errors = [error]
    with delivering(tmp_path, cloud, metrics=metrics) as (delivery, outbox):
        put(delivery, "bad")
        put(delivery, "good")
        assert delivery.deliver(timeout_s=10) == 0
        assert (outbox.state("bad"), outbox.state("good")) == (State.DEAD, State.DONE)
        assert "given up" in caplog.text and ORIGINAL not in caplog.text
        assert metrics.registry.get_sample_value("tandem_outbox_dead_total") == 1
        with pytest.raises(InputError, match="given up"):
            delivery.collect("bad")


@pytest.mark.parametrize("error", [InternalError("nonsense"), DeadlineExceededError("slow")])
def test_an_item_that_always_fails_dies_after_its_attempts(
    tmp_path: Path, error: WireError
) -> None:
    cloud = SimulatedCloud()
    cloud.errors = [error] * 3
    with delivering(tmp_path, cloud) as (delivery, outbox):
        put(delivery, "bad")
        assert delivery.deliver(timeout_s=10) == 0
        (dead,) = outbox.dead()
        assert dead.attempts == 3 and dead.reason == error.message
        assert outbox.revive("bad") and delivery.deliver(timeout_s=10) == 0
        assert delivery.collect("bad") is not None


def test_an_answer_that_was_lost_on_the_way_is_asked_again_for_one_effect(tmp_path: Path) -> None:
    cloud = SimulatedCloud()

    class LosesAnswers(SimulatedCloud):
        def generate(self, *arguments: Any, **options: Any) -> Any:
            answer = cloud.generate(*arguments, **options)
            if len(cloud.received) < 4:
                raise UnavailableError("the answer was lost")
            return answer

    with delivering(tmp_path, LosesAnswers()) as (delivery, _):
        put(delivery, "r-1")
        assert delivery.deliver(timeout_s=10) == 0
    assert len(cloud.received) == 4 and len(cloud.effects) == 1


def test_one_process_delivers_at_a_time(tmp_path: Path) -> None:
    first, second = SimulatedCloud(), SimulatedCloud()
    with delivering(tmp_path, first) as (one, _), delivering(tmp_path, second) as (two, _):
        put(one, "r-1")
        assert one.deliver(timeout_s=5) == 0
        put(two, "r-2")
        assert two.deliver(timeout_s=0.2) == 1, "the first holds the lock"
        one.close()
        assert two.deliver(timeout_s=5) == 0
    assert len(first.effects) == len(second.effects) == 1


def test_leases_of_a_dead_process_are_taken_over_at_once(tmp_path: Path) -> None:
    with open_outbox(tmp_path) as outbox:
        delivery = Delivery(outbox, None)
        put(delivery, "r-1")
        assert outbox.lease(Kind.GENERATE) is not None  # and then this process dies
    with delivering(tmp_path, SimulatedCloud()) as (delivery, _):
        assert delivery.deliver(timeout_s=5) == 0


def test_closing_puts_back_what_is_under_way(tmp_path: Path) -> None:
    class Slow(SimulatedCloud):
        begun = threading.Event()

        def generate(self, *arguments: Any, **options: Any) -> Any:
            self.begun.set()
            options["cancel"].wait(10)
            return super().generate(*arguments, **options)

    slow = Slow()
    with delivering(tmp_path, slow) as (delivery, _):
        delivery.start()
        put(delivery, "r-1")
        assert slow.begun.wait(5)
        begun = time.monotonic()
        delivery.close()
        assert time.monotonic() - begun < 2
    with open_outbox(tmp_path) as outbox:
        assert outbox.state("r-1") is State.READY
        leased = outbox.lease(Kind.GENERATE)
        assert leased is not None and leased.attempt == 1, "not the item's fault"


def test_the_same_request_again_and_another_under_its_id(tmp_path: Path) -> None:
    with delivering(tmp_path, SimulatedCloud()) as (delivery, outbox):
        put(delivery, "r-1")
        put(delivery, "r-1")
        assert outbox.counts().waiting == 1
        with pytest.raises(OutboxConflictError):
            put(delivery, "r-1", text="another")


def test_reports_are_delivered_and_forgotten(tmp_path: Path) -> None:
    outcome = Outcome(
        answered_request_id="r-1",
        task="cxr-triage",
        route="LOCAL",
        score=0.5,
        fingerprint="ab",
        verdict=Verdict.CORRECT,
        answered_unix_ms=7,
    )
    cloud = SimulatedCloud()
    with delivering(tmp_path, cloud) as (delivery, outbox):
        delivery.put_report("f-1", [outcome])
        assert delivery.deliver(timeout_s=5) == 0
        assert cloud.outcomes == {"f-1": (outcome,)}
        assert outbox.state("f-1") is None


def test_a_damaged_item_dies_and_the_others_go_on(tmp_path: Path) -> None:
    import sqlite3

    with delivering(tmp_path, SimulatedCloud()) as (delivery, outbox):
        put(delivery, "r-1")
        put(delivery, "r-2")
        with sqlite3.connect(tmp_path / "outbox.db", isolation_level=None) as other:
            other.execute("UPDATE outbox SET payload_enc = zeroblob(size) WHERE seq = 0")
        other.close()
        assert delivery.deliver(timeout_s=5) == 0
        assert (outbox.state("r-1"), outbox.state("r-2")) == (State.DEAD, State.DONE)


def test_a_damaged_answer_is_told_in_one_sentence(tmp_path: Path) -> None:
    import sqlite3

    with delivering(tmp_path, SimulatedCloud()) as (delivery, _):
        put(delivery, "r-1")
        delivery.deliver(timeout_s=5)
        with sqlite3.connect(tmp_path / "outbox.db", isolation_level=None) as other:
            other.execute("UPDATE outbox SET answer_enc = zeroblob(100)")
        other.close()
        with pytest.raises(OutboxError, match="damaged"):
            delivery.collect("r-1")


def test_nobody_knows_an_id_that_never_waited(tmp_path: Path) -> None:
    with delivering(tmp_path, None) as (delivery, _), pytest.raises(InputError):
        delivery.collect("never")


def test_waking_shortens_the_pause(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.is_reachable = False
    patient = DeliverySettings(first_pause_s=60)
    with delivering(tmp_path, cloud, settings=patient) as (delivery, outbox):
        delivery.start()
        put(delivery, "r-1")
        time.sleep(0.1)
        cloud.is_reachable = True
        delivery.wake()
        wait_for(lambda: outbox.state("r-1") is State.DONE)
