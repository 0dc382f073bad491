"""Trust in certificates while it is watched: audits by lot, alarms, and a memory that may fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.flow import Confidence, Route
from edge_agent.router import Situation, decide
from edge_agent.trust import Trust
from partition.calibration.calibration import Claim, certify, divide
from partition.calibration.certificate import Certificate
from partition.fingerprint import Setup
from partition.oversight.audit import AuditPlan
from partition.oversight.oversight import Oversight
from partition.oversight.oversight_file import OversightFile
from partition.task import Task, TaskKind
from tests.worlds import WORLD_B

TASK = Task(name="triage", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
SETUP = Setup(
    model="a" * 64,
    prompt_sha256="c" * 64,
    preprocess_version="1",
    anonymizer_version="1",
    language="en",
)
PLAN = AuditPlan(secret=b"0123456789abcdef", rate=1.0)
SURE = Confidence(probability=0.99, score=0.999)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    drawn = tuple(
        replace(record, task="triage", setup=SETUP.sha256)
        for record in WORLD_B.draw(np.random.default_rng(3), 2000)
    )
    return certify(divide(drawn), Claim(max_error=0.05, confidence=0.95))


def trust_in(certificate: Certificate, path: Path | None) -> Trust:
    oversight = (
        None if path is None else Oversight(OversightFile(path), plan=PLAN, clock=lambda: 1e9)
    )
    return Trust(
        setups={"triage": SETUP}, certificates={"triage": certificate}, oversight=oversight
    )


def judge(trust: Trust) -> Oversight:
    assert trust.oversight is not None
    return trust.oversight


def route(trust: Trust) -> Route:
    return decide(SURE, TASK.policy, Situation(threshold=trust.verdict(TASK).threshold)).route


def test_watched_certificate_decides_like_an_unwatched_one(
    certificate: Certificate, tmp_path: Path
) -> None:
    watched, plain = trust_in(certificate, tmp_path / "o.db"), trust_in(certificate, None)
    assert watched.verdict(TASK) == plain.verdict(TASK)
    assert route(watched) is route(plain) is Route.LOCAL
    assert not plain.saw(TASK, "r", SURE, stood=True, judged="normal")


def test_alarm_sends_the_task_to_the_cloud_also_after_a_restart(
    certificate: Certificate, tmp_path: Path
) -> None:
    trust = trust_in(certificate, tmp_path / "o.db")
    for index in range(3):
        assert trust.saw(TASK, f"r{index}", SURE, stood=True, judged="normal") or index == 2
        judge(trust).compare_audit(f"r{index}", "abnormal")
    again = trust_in(certificate, tmp_path / "o.db")
    threshold = again.verdict(TASK).threshold
    assert threshold is not None
    assert "audit alarm" in threshold.why_suspended
    decision = decide(SURE, TASK.policy, Situation(threshold=threshold))
    assert decision.route is Route.CLOUD
    assert "audit alarm" in decision.reason


def test_agreeing_judgements_keep_it(certificate: Certificate, tmp_path: Path) -> None:
    trust = trust_in(certificate, tmp_path / "o.db")
    for index in range(30):
        trust.saw(TASK, f"r{index}", SURE, stood=True, judged="normal")
        judge(trust).compare_audit(f"r{index}", " Normal\n")
    trust.saw(TASK, "person", SURE, stood=True, judged="normal")
    judge(trust).settle_audit("person", 0.0)
    assert route(trust) is Route.LOCAL


def test_only_answers_that_stood_are_audited(certificate: Certificate, tmp_path: Path) -> None:
    trust = trust_in(certificate, tmp_path / "o.db")
    assert not trust.saw(TASK, "r", SURE, stood=True, judged=None)
    judge(trust).compare_audit("r", "abnormal")
    assert route(trust) is Route.LOCAL


def test_without_a_memory_nothing_stands_by_itself(
    certificate: Certificate, tmp_path: Path
) -> None:
    path = tmp_path / "o.db"
    trust = trust_in(certificate, path)
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_text("no database any more " * 200)
    assert route(trust) is Route.CLOUD
    assert not trust.saw(
        TASK, "r", SURE, stood=True, judged="normal"
    )  # and the request itself goes on


def test_another_setup_voids_the_certificate(certificate: Certificate, tmp_path: Path) -> None:
    oversight = Oversight(OversightFile(tmp_path / "o.db"), plan=PLAN, clock=lambda: 1e9)
    trust = Trust(
        setups={"triage": replace(SETUP, model="b" * 64)},
        certificates={"triage": certificate},
        oversight=oversight,
    )
    assert trust.verdict(TASK).threshold is None
    assert oversight.standing("triage") is None
