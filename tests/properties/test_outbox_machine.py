"""The outbox against the obvious model, with restarts, a moving clock, lost leases and late answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from edge_agent.errors import OutboxConflictError
from edge_agent.outbox.outbox import Kind, Leased, OutboxLimits, State
from tests.outbox_helpers import Text, open_outbox
from tests.simulators import Clock

NAMES = st.sampled_from([f"r-{index}" for index in range(6)])
KINDS = st.sampled_from(list(Kind))
LEASE_S, MAX_AGE_S = 60.0, 1000.0


@dataclass
class Item:
    """What the model knows of one item."""

    name: str
    kind: Kind
    text: str
    created: float
    order: int
    state: State = State.READY
    next_at: float = 0.0
    lease_until: float = 0.0
    attempts: int = 0
    answer: str | None = None
    finished: float = 0.0


class OutboxMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.items: dict[str, Item] = {}
        self.order = 0
        self.open()

    def open(self) -> None:
        limits = OutboxLimits(lease_s=LEASE_S, max_age_s=MAX_AGE_S)
        self.outbox = open_outbox(Path(self.folder.name), clock=self.clock, limits=limits)

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.check_integrity()
            self.outbox.close()
            self.folder.cleanup()

    @rule(name=NAMES, kind=KINDS, text=st.sampled_from(["a", "b"]))
    def put(self, name: str, kind: Kind, text: str) -> None:
        known = self.items.get(name)
        try:
            stored = self.outbox.put(
                name,
                kind=kind,
                payload=Text(name + text),
                content=text.encode(),
                vault=Text("v" + name),
            )
        except OutboxConflictError:
            assert known is not None and known.text != text
            return
        assert stored == (known is None)
        if stored:
            self.order += 1
            self.items[name] = Item(name, kind, text, self.clock(), self.order)

    @rule(target=leases, kind=KINDS)
    def lease(self, kind: Kind) -> object:
        now = self.clock()
        due = []
        for item in self.items.values():
            if item.kind is kind and item.state is State.LEASED and item.lease_until <= now:
                item.state = State.READY
            if item.kind is kind and item.state is State.READY and item.next_at <= now:
                due.append(item)
        expected = min(due, key=lambda item: item.order, default=None)
        leased = self.outbox.lease(kind)
        if expected is None:
            assert leased is None
            return multiple()
        assert leased is not None
        assert leased.payload.open(Text.from_sealed) == Text(expected.name + expected.text)
        expected.state, expected.attempts = State.LEASED, expected.attempts + 1
        expected.lease_until = now + LEASE_S
        assert leased.attempt == expected.attempts
        return (expected.name, expected.order, leased)

    def holds(self, name: str, order: int, leased: Leased) -> Item | None:
        """The item, when this lease is still the one that counts."""
        item = self.items.get(name)
        if item is None or item.order != order:
            return None
        is_held = item.state is State.LEASED and item.attempts == leased.attempt
        return item if is_held else None

    @rule(lease=leases, answer=st.sampled_from([None, "x", "yy"]))
    def done(self, lease: tuple[str, int, Leased], answer: str | None) -> None:
        name, _, leased = lease
        item = self.items.get(name)
        waits = item is not None and item.state in (State.READY, State.LEASED)
        if item is not None and item.kind is not leased.kind:
            return  # forgotten and put again as another kind: its answer could not be opened
        assert self.outbox.done(leased, Text(answer) if answer is not None else None) == waits
        if waits and item is not None:
            if answer is None:
                del self.items[name]
            else:
                item.state, item.answer, item.finished = State.DONE, answer, self.clock()

    @rule(lease=consumes(leases), pause_s=st.sampled_from([0.0, 30.0]), counts=st.booleans())
    def fail(self, lease: tuple[str, int, Leased], pause_s: float, counts: bool) -> None:
        item = self.held_by(lease)
        assert self.outbox.fail(lease[2], reason="?", pause_s=pause_s, counts=counts) == bool(item)
        if item is not None:
            item.state, item.next_at = State.READY, self.clock() + pause_s
            item.attempts -= 0 if counts else 1

    @rule(lease=consumes(leases))
    def bury(self, lease: tuple[str, int, Leased]) -> None:
        item = self.held_by(lease)
        assert self.outbox.bury(lease[2], reason="?") == bool(item)
        if item is not None:
            item.state, item.finished = State.DEAD, self.clock()

    def held_by(self, lease: tuple[str, int, Leased]) -> Item | None:
        """As :meth:`holds`; a forgotten item that was put again has the same id, so only state and attempt decide."""
        name, _, leased = lease
        item = self.items.get(name)
        return None if item is None else self.holds(name, item.order, leased)

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        assert self.outbox.forget(name) == (self.items.pop(name, None) is not None)

    @rule(name=NAMES)
    def revive(self, name: str) -> None:
        item = self.items.get(name)
        is_dead = item is not None and item.state is State.DEAD
        assert self.outbox.revive(name) == is_dead
        if is_dead and item is not None:
            item.state, item.attempts = State.READY, 0
            item.created = item.next_at = self.clock()

    @rule()
    def release_leases(self) -> None:
        leased = [item for item in self.items.values() if item.state is State.LEASED]
        assert self.outbox.release_leases() == len(leased)
        for item in leased:
            item.state = State.READY

    @rule()
    def expire(self) -> None:
        limit = self.clock() - MAX_AGE_S
        dead = [i for i in self.items.values() if i.state is State.READY and i.created < limit]
        assert self.outbox.expire() == len(dead)
        for item in dead:
            item.state, item.finished = State.DEAD, self.clock()
        for item in list(self.items.values()):
            if item.state is State.DONE and item.finished < limit:
                del self.items[item.name]

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 999.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.open()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "outbox"):
            return
        counts = self.outbox.counts()
        states = [item.state for item in self.items.values()]
        assert counts.waiting == sum(s in (State.READY, State.LEASED) for s in states)
        assert counts.done == states.count(State.DONE)
        assert counts.dead == states.count(State.DEAD)
        for name, item in self.items.items():
            assert self.outbox.state(name) is item.state
            collected = self.outbox.collect(name)
            assert (collected is not None) == (item.state is State.DONE)
            if collected is not None:
                assert collected.answer.open(Text.from_sealed).text == item.answer
                assert collected.vault is not None
                assert collected.vault.open(Text.from_sealed).text == "v" + name


OutboxMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True
)
TestOutbox = OutboxMachine.TestCase
