"""What a tenant that floods may do to another: the real scheduler on a simulated clock, layer by layer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.engine.kv_blocks import BlockPool
from cloud_service.engine.scheduler import LAG_STEPS, LEAD_STEPS, OUTPUT_WEIGHT, Scheduler, Share
from cloud_service.engine.sequence import Owner, Rows, Sequence

STEP_TOKENS = 256
NUM_LAYERS = 30
A_S, B_S, C_S = (
    0.027,
    0.0008,
    0.0035,
)  # of a step, a position, a sequence: a small model on one core
STEP_S = 0.12  # of a step in which somebody reads along


class Nothing:
    """A program that is never asked."""

    reads_logits = False

    def on_rows(self, rows: Rows) -> None:
        raise AssertionError

    def on_end(self, end: object) -> None:
        raise AssertionError


@dataclass
class Request:
    """One of a simulated caller."""

    arrived_s: float
    sequence: Sequence
    num_left: int
    first_s: float | None = None
    token_s: list[float] = field(default_factory=list)


class Service:
    """The engine's loop without a model: a step takes its time layer by layer, and arrivals are looked at between them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.scheduler = Scheduler(BlockPool(4096), max_sequences=32, step_tokens=STEP_TOKENS)
        self.requests: dict[int, Request] = {}
        self.on_answer: Callable[[Request], None] = lambda request: None
        self._due: list[tuple[float, Callable[[], None]]] = []

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        self._due.append((time_s, what))
        self._due.sort(key=lambda one: one[0])

    def ask(self, tenant: str, num_prompt: int, num_answer: int) -> Request:
        sequence = Sequence(
            owner=Owner(tenant=tenant, deadline_s=1e9, arrived_s=self.now_s),
            number=len(self.requests),
            ids=[(len(self.requests) * 7919 + at) % 50_000 for at in range(num_prompt)],
            num_rows=1,
            program=Nothing(),
        )
        request = self.requests[sequence.number] = Request(self.now_s, sequence, num_answer)
        self.scheduler.add(sequence)
        return request

    def run(self, until_s: float) -> None:
        while self.now_s < until_s:
            self._arrive()
            if shares := self.scheduler.plan(self._room_of):
                self._step(shares, is_inserted=False)
            else:
                self.now_s = self._due[0][0] if self._due else until_s

    def _room_of(self, num: int) -> int:
        return max(0, int((STEP_S - A_S - C_S * num) / B_S))

    def _step(self, shares: tuple[Share, ...], *, is_inserted: bool) -> None:
        took_s = A_S + C_S * len(shares) + B_S * sum(share.num_tokens for share in shares)
        for _ in range(NUM_LAYERS):
            if not is_inserted and self._arrive():
                while inserted := self.scheduler.plan_inserted():
                    self._step(inserted, is_inserted=True)
                    self._arrive()
            self.now_s += took_s / NUM_LAYERS
        for share in shares:
            self.scheduler.computed(share)
            if share.sequence.num_missing == 0:
                self._choose(self.requests[share.sequence.number])

    def _choose(self, request: Request) -> None:
        request.token_s.append(self.now_s)
        request.num_left -= 1
        if request.num_left:
            request.sequence.ids.append(1)
        else:
            self.scheduler.remove(request.sequence)
            self.on_answer(request)

    def _arrive(self) -> bool:
        has_come = False
        while self._due and self._due[0][0] <= self.now_s:
            self._due.pop(0)[1]()
            has_come = True
        return has_come


def callers(service: Service, tenant: str, *, num: int, num_answer: int, seed: int) -> None:
    """So many that ask again when answered, a moment later."""
    chance = random.Random(seed)

    def ask() -> None:
        service.ask(tenant, chance.randint(40, 160), num_answer)

    before = service.on_answer

    def on_answer(request: Request) -> None:
        before(request)
        if request.sequence.owner.tenant == tenant:
            service.at(service.now_s + chance.uniform(0.001, 0.02), ask)

    service.on_answer = on_answer
    for _ in range(num):
        service.at(chance.uniform(0.0, 0.1), ask)


def first_tokens_s(service: Service, tenant: str) -> list[float]:
    return sorted(
        request.token_s[0] - request.arrived_s
        for request in service.requests.values()
        if request.sequence.owner.tenant == tenant and request.token_s
    )


def test_beside_a_flood_first_tokens_come_as_alone() -> None:
    waits: dict[bool, list[float]] = {}
    for is_flooded in (False, True):
        service = Service()
        callers(service, "polite", num=2, num_answer=8, seed=1)
        if is_flooded:
            callers(service, "flood", num=32, num_answer=24, seed=2)
        service.run(120.0)
        waits[is_flooded] = first_tokens_s(service, "polite")
        assert len(waits[is_flooded]) > 150
    for share in (0.5, 0.9, 0.99):
        alone_s, beside_s = (waits[one][int(share * len(waits[one]))] for one in (False, True))
        assert beside_s < 1.25 * alone_s


def test_who_floods_goes_on_meanwhile() -> None:
    service = Service()
    callers(service, "polite", num=2, num_answer=8, seed=1)
    callers(service, "flood", num=32, num_answer=24, seed=2)
    service.run(60.0)
    pauses = [
        later - earlier
        for request in service.requests.values()
        if request.sequence.owner.tenant == "flood"
        for earlier, later in zip(request.token_s, request.token_s[1:], strict=False)
    ]
    assert max(pauses) < 1.0  # a step of its own, and both prompts of the others
    assert sum(pauses) / len(pauses) < 0.25


def test_who_was_there_all_the_time_and_asked_little_cannot_shut_the_others_out() -> None:
    service = Service()
    callers(service, "steady", num=8, num_answer=24, seed=1)
    callers(service, "slow", num=1, num_answer=200, seed=2)
    service.run(60.0)
    before = len(service.requests)
    callers(service, "slow", num=64, num_answer=1, seed=3)  # nothing but prompts, from now on
    began_s = service.now_s
    service.run(began_s + 20.0)
    firsts = [
        request.token_s[0] - request.arrived_s
        for number, request in service.requests.items()
        if number >= before and request.sequence.owner.tenant == "steady" and request.token_s
    ]
    # What it was behind is done, and a step; then they take turns.
    credit_s = (LAG_STEPS + LEAD_STEPS) * STEP_TOKENS * B_S + LAG_STEPS * (A_S + 10 * C_S)
    assert len(firsts) > 10
    assert max(firsts) < credit_s + 3 * (A_S + STEP_TOKENS * B_S + 32 * C_S)


@given(st.data())
def test_between_two_tokens_of_a_sequence_others_get_no_more_than_they_are_behind(
    data: st.DataObject,
) -> None:
    scheduler = Scheduler(BlockPool(2048), max_sequences=8, step_tokens=32)
    number = 0

    def add(tenant: str, length: int) -> Sequence:
        nonlocal number
        number += 1
        owner = Owner(tenant=tenant, deadline_s=float(number), arrived_s=0.0)
        ids = [number * 101 + at for at in range(length)]
        sequence = Sequence(owner=owner, number=number, ids=ids, num_rows=1, program=Nothing())
        scheduler.add(sequence)
        return sequence

    flood = [add("flood", 4) for _ in range(6)]
    given_to_others = dict.fromkeys(range(6), 0)
    bound = (LAG_STEPS + LEAD_STEPS + 1) * 32 * OUTPUT_WEIGHT

    def done(shares: tuple[Share, ...]) -> None:
        num_theirs = sum(one.num_tokens for one in shares if one.sequence not in flood)
        for at in given_to_others:
            given_to_others[at] += num_theirs
        for share in shares:
            scheduler.computed(share)
            if share.sequence in flood:
                given_to_others[flood.index(share.sequence)] = 0
                share.sequence.ids.append(0)
            elif share.sequence.num_missing == 0:
                if data.draw(st.booleans()):
                    share.sequence.ids.append(0)
                else:
                    scheduler.remove(share.sequence)

    for _ in range(data.draw(st.integers(1, 30))):
        for length in data.draw(st.lists(st.integers(1, 90), max_size=4)):
            add("other", length)
        shares = scheduler.plan()
        for length in data.draw(st.lists(st.integers(1, 90), max_size=2)):
            add("other", length)
        while inserted := scheduler.plan_inserted():
            assert not {id(one.sequence) for one in shares} & {id(one.sequence) for one in inserted}
            done(inserted)
        done(shares)
        scheduler.check_integrity()
        assert max(given_to_others.values()) <= bound


@pytest.mark.parametrize("tenants", [("flood", "flood"), ("flood", "other")])
def test_nothing_is_inserted_for_whoever_has_had_as_much(tenants: tuple[str, str]) -> None:
    service = Service()
    for tenant in set(tenants):
        service.ask(tenant, 100, 50)
    service.run(1.0)
    shares = service.scheduler.plan()
    assert shares
    service.ask(tenants[1], 100, 50)
    assert service.scheduler.plan_inserted() == ()
