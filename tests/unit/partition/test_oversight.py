"""What is remembered about certificates in operation, across restarts."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partition.calibration.calibration import calibrate
from partition.errors import OversightError
from partition.oversight.adaptive import AdaptiveThreshold
from partition.oversight.audit import AuditPlan, OnAlarm
from partition.oversight.budget import BudgetPolicy, Spending
from partition.oversight.oversight import Oversight
from partition.oversight.oversight_file import OversightFile
from partition.oversight.spending_book import SpendingBook
from tests.worlds import WORLD_B

CERTIFICATE = calibrate(
    WORLD_B.draw(np.random.default_rng(3), 3000), max_error=0.05, confidence=0.95
)
PLAN = AuditPlan(secret=b"0123456789abcdef", rate=1.0, deadline_s=100.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def audit(oversight: Oversight, losses: list[float], name: str = "r") -> None:
    for index, loss in enumerate(losses):
        assert oversight.begin_audit("t", f"{name}-{index}")
        assert oversight.settle_audit(f"{name}-{index}", loss) is not None


def test_state_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "o.db"
    first = Oversight(OversightFile(path), plan=PLAN, clock=clock)
    first.watch("t", CERTIFICATE)
    audit(first, [0.0, 1.0, 0.0])
    first.saw_score("t", 0.5)
    first.begin_audit("t", "open")
    second = Oversight(OversightFile(path), plan=PLAN, clock=clock)
    standing = second.watch("t", CERTIFICATE)
    assert standing == first.standing("t")
    assert (standing.num_audits, standing.num_errors, standing.num_pending) == (3, 1.0, 1)
    assert standing.threshold == CERTIFICATE.threshold
    second.check_integrity()


def test_alarm_suspends_the_certificate_and_resume_takes_it_up(
    tmp_path: Path, clock: Clock
) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    audit(oversight, [1.0] * 3)
    standing = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock).standing("t")
    assert standing is not None
    assert standing.threshold is None
    assert "2 of 2 audited answers were wrong" in standing.why_suspended
    assert oversight.watch("t", CERTIFICATE).threshold is None
    assert oversight.resume("t").threshold == CERTIFICATE.threshold
    assert oversight.resume("t").e_value == pytest.approx(1.0)


def test_alarm_may_step_to_stricter_certified_thresholds(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(
        OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock, on_alarm=OnAlarm.STRICTER
    )
    standing = oversight.watch("t", CERTIFICATE)
    seen = [standing.threshold]
    for index in range(200):
        audit(oversight, [1.0], name=str(index))
        standing = oversight.standing("t")  # type: ignore[assignment]
        if standing.threshold != seen[-1]:
            seen.append(standing.threshold)
    assert seen == [CERTIFICATE.threshold, *CERTIFICATE.stricter_thresholds, None]


def test_a_new_certificate_begins_anew(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    oversight.begin_audit("t", "old")
    audit(oversight, [1.0] * 3)
    newer = replace(CERTIFICATE, fingerprint="f" * 64)
    assert oversight.watch("t", newer).threshold == CERTIFICATE.threshold
    assert oversight.standing("t").num_audits == 0  # type: ignore[union-attr]
    # A judgement of an answer of the old model says nothing about the new one.
    standing = oversight.settle_audit("old", 1.0)
    assert standing is not None
    assert standing.num_audits == 0


def test_silence_counts_as_an_error(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    oversight.begin_audit("t", "a")
    assert oversight.expire_audits() == 0
    clock.now_s += 101
    assert oversight.expire_audits() == 1
    assert oversight.expire_audits() == 0
    assert oversight.settle_audit("a", 0.0) is None  # too late
    assert oversight.standing("t").num_errors == 1.0  # type: ignore[union-attr]


def test_one_judgement_for_one_answer(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    oversight.begin_audit("t", "a")
    oversight.begin_audit("t", "a")
    assert oversight.settle_audit("a", 1.0) is not None
    assert oversight.settle_audit("a", 1.0) is None
    assert oversight.settle_audit("never", 1.0) is None
    assert oversight.standing("t").num_audits == 1  # type: ignore[union-attr]


def test_unwatched_tasks_are_left_alone(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    assert oversight.standing("t") is None
    assert not oversight.begin_audit("t", "a")
    oversight.saw_score("t", 1.0)
    with pytest.raises(OversightError, match="not watched"):
        oversight.resume("t")
    with pytest.raises(OversightError, match="nothing to watch"):
        oversight.watch("t", replace(CERTIFICATE, threshold=None))


def test_drift_warning_survives_too(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "o.db"
    oversight = Oversight(OversightFile(path), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    for _ in range(200):
        oversight.saw_score("t", 0.01)
    standing = Oversight(OversightFile(path), plan=PLAN, clock=clock).standing("t")
    assert standing is not None
    assert "PSI" in standing.drift_warning
    assert standing.threshold is not None  # a hint suspends nothing


def test_file_holds_no_caller_ids(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    oversight.begin_audit("t", "MRN-0012345")
    for path in tmp_path.iterdir():
        assert b"MRN-0012345" not in path.read_bytes()


def test_budget_survives_and_rolls_over(tmp_path: Path, clock: Clock) -> None:
    path, policy = tmp_path / "o.db", BudgetPolicy(daily_micro_usd=1000, audit_ratio=0.1)

    def open_it() -> SpendingBook:
        return SpendingBook(OversightFile(path), policy=policy, clock=clock)

    assert open_it().may_spend(gain=1.0, cost_micro_usd=900) is Spending.SEND
    assert open_it().may_spend(gain=1.0, cost_micro_usd=1) is Spending.EXHAUSTED
    assert open_it().may_spend_on_audit(cost_micro_usd=100) is Spending.SEND
    assert open_it().may_spend_on_audit(cost_micro_usd=1) is Spending.EXHAUSTED
    clock.now_s += 86400
    assert open_it().may_spend(gain=1.0, cost_micro_usd=900) is Spending.SEND
    open_it().correct(expected_micro_usd=900, billed_micro_usd=150, is_audit=False)
    assert open_it().today.spent_micro_usd == 150
    assert open_it().may_spend(gain=1.0, cost_micro_usd=750) is Spending.SEND
    assert open_it().may_spend(gain=1.0, cost_micro_usd=1) is Spending.EXHAUSTED


def adaptive(*, threshold: float = 0.9, max_error: float = 0.1) -> AdaptiveThreshold:
    return AdaptiveThreshold(threshold=threshold, max_error=max_error, audit_rate=1.0, eta=0.01)


def test_adaptive_threshold_learns_from_late_audits_across_restarts(
    tmp_path: Path, clock: Clock
) -> None:
    file = OversightFile(tmp_path / "o.db")
    oversight = Oversight(file, plan=PLAN, clock=clock)
    assert oversight.adaptive("t") is None
    assert not oversight.begin_audit("t", "r")  # nothing watches it
    oversight.follow("t", "f", adaptive())
    for name in ("a", "b"):
        assert oversight.begin_audit("t", name)
        oversight.adapt("t", stood=True, is_audited=True)
    oversight.settle_audit("a", 1.0)
    again = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    state = again.follow("t", "f", adaptive())
    assert state.threshold == pytest.approx(0.909)
    assert (state.num_local, state.num_pending, state.most_pending) == (2, 1, 2)
    clock.now_s += 1000
    again.expire_audits()  # no label counts as an error here, too
    later = again.adaptive("t")
    assert later is not None
    assert later.threshold == pytest.approx(0.918)
    assert later.num_pending == 0
    assert again.follow("t", "f", adaptive(max_error=0.2)).num_local == 0  # another rule
    again.unfollow("t")
    assert again.adaptive("t") is None


def test_adaptive_threshold_sinks_only_while_nothing_can_stand(
    tmp_path: Path, clock: Clock
) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.follow("t", "f", adaptive(threshold=1.5))
    oversight.adapt("t", stood=False)
    state = oversight.adaptive("t")
    assert state is not None
    assert state.threshold < 1.5


def test_an_audit_is_settled_by_the_name_that_stands_for_it(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    oversight.begin_audit("t", "r")
    assert oversight.waits_for("r")
    assert oversight.settle_named(oversight.name_of("r"), 1.0)
    assert not oversight.waits_for("r")
    assert not oversight.settle_named(oversight.name_of("r"), 1.0)
    standing = oversight.standing("t")
    assert standing is not None
    assert (standing.num_audits, standing.num_errors) == (1, 1.0)


def test_threads_lose_no_audit(tmp_path: Path, clock: Clock) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    workers = [
        threading.Thread(target=audit, args=(oversight, [0.0] * 20, f"w{number}"))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert oversight.standing("t").num_audits == 80  # type: ignore[union-attr]


def test_damaged_files_are_named(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "o.db"
    path.write_text("this is no database, and long enough to be looked at as one" * 50)
    with pytest.raises(OversightError, match="move it away"):
        Oversight(OversightFile(path), plan=PLAN, clock=clock)
    good = tmp_path / "good.db"
    oversight = Oversight(OversightFile(good), plan=PLAN, clock=clock)
    oversight.watch("t", CERTIFICATE)
    connection = sqlite3.connect(good)
    with connection:
        connection.execute('update watch set state = \'{"step": "SECRET"}\'')
    connection.close()
    with pytest.raises(OversightError, match="cannot be read") as caught:
        oversight.check_integrity()
    assert "SECRET" not in str(caught.value)
