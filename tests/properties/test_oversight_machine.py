"""The oversight file against the obvious model: a dictionary of audits and one alarm, with restarts in between."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from partition.calibration.calibration import calibrate
from partition.oversight.alarm import ErrorAlarm
from partition.oversight.audit import AuditPlan
from partition.oversight.oversight import Oversight
from partition.oversight.oversight_file import OversightFile
from tests.worlds import WORLD_B

CERTIFICATE = calibrate(
    WORLD_B.draw(np.random.default_rng(3), 2000), max_error=0.05, confidence=0.95
)
PLAN = AuditPlan(secret=b"0123456789abcdef", rate=0.5, deadline_s=10.0)
NAMES = st.sampled_from([f"r{index}" for index in range(12)])


class OversightMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now_s = 1_000_000.0
        self.open()
        self.oversight.watch("t", CERTIFICATE)
        self.alarm = ErrorAlarm(max_error=0.05, delta=0.05)
        self.pending: dict[str, float] = {}

    def open(self) -> None:
        path = Path(self.folder.name) / "o.db"
        self.oversight = Oversight(OversightFile(path), plan=PLAN, clock=lambda: self.now_s)

    def count(self, loss: float) -> None:
        if not self.alarm.is_raised:
            self.alarm = self.alarm.after(loss)

    @rule(name=NAMES)
    def local_answer(self, name: str) -> None:
        assert self.oversight.begin_audit("t", name) == PLAN.draws(name)
        if PLAN.draws(name):
            self.pending.setdefault(name, self.now_s + 10.0)

    @rule(name=NAMES, loss=st.sampled_from([0.0, 1.0]))
    def judged(self, name: str, loss: float) -> None:
        standing = self.oversight.settle_audit(name, loss)
        assert (standing is not None) == (name in self.pending)
        if self.pending.pop(name, None) is not None:
            self.count(loss)

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        late = [name for name, due_s in self.pending.items() if due_s <= self.now_s]
        assert self.oversight.expire_audits() == len(late)
        for name in late:
            del self.pending[name]
            self.count(1.0)

    @rule()
    def restart(self) -> None:
        self.open()
        self.oversight.watch("t", CERTIFICATE)

    @rule()
    def resume(self) -> None:
        if self.alarm.is_raised:
            self.oversight.resume("t")
            self.alarm = self.alarm.restarted()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "oversight"):
            return
        standing = self.oversight.standing("t")
        assert standing is not None
        assert standing.num_audits == self.alarm.num_audits
        assert standing.num_errors == self.alarm.num_errors
        assert standing.num_pending == len(self.pending)
        assert (standing.threshold is None) == self.alarm.is_raised

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestOversight = OversightMachine.TestCase
TestOversight.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
