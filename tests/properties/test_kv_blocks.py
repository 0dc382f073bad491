"""Blocks are conserved whatever sequences do: the pool against the obvious model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_service.engine.kv_blocks import BlockPool
from cloud_service.engine.scheduler import Scheduler, Share
from cloud_service.engine.sequence import Owner, Rows, Sequence

NUM_BLOCKS = 8
MAX_TOKENS = NUM_BLOCKS * 16
ARRIVALS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 40)), max_size=2)


class Nothing:
    """A program that is never asked."""

    def on_rows(self, rows: Rows) -> None:
        raise AssertionError

    def on_end(self, end: object) -> None:
        raise AssertionError


class SchedulerMachine(RuleBasedStateMachine):
    """Sequences arrive, grow, are parked, cropped and dropped; memory is always too small."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(BlockPool(NUM_BLOCKS), max_sequences=3, step_tokens=20)
        self.number = 0

    @rule(
        tenant=st.sampled_from(["a", "b"]),
        length=st.integers(1, MAX_TOKENS),
        deadline=st.integers(0, 3),
        rows=st.integers(1, 3),
    )
    def add(self, tenant: str, length: int, deadline: int, rows: int) -> None:
        owner = Owner(tenant=tenant, deadline_s=float(deadline), arrived_s=0.0)
        self.number += 1
        sequence = Sequence(
            owner=owner,
            number=self.number,
            ids=[at % 3 for at in range(length)],
            num_rows=min(rows, length),
            program=Nothing(),
        )
        self.scheduler.add(sequence)

    @rule(grow=st.booleans(), data=st.data())
    def step(self, grow: bool, data: st.DataObject) -> None:
        shares = self.scheduler.plan()
        working = [one for one in self.scheduler.sequences if not one.is_parked]
        assert bool(shares) == bool(working)  # whoever is most urgent always runs
        self.check(shares)
        for tenant, length in data.draw(ARRIVALS):  # while it runs
            self.add(tenant, length, 0, 1)
            for _ in range(100):
                inserted = self.scheduler.plan_inserted()
                if not inserted:
                    break
                of_step = {id(share.sequence) for share in shares}
                assert not of_step & {id(share.sequence) for share in inserted}
                self.check(inserted)
                self.scheduler.check_integrity()
                self.finish(inserted, grow, data)
            else:
                raise AssertionError("one tenant alone could hold a step up for ever")
            self.check_room(shares)
        self.finish(shares, grow, data)

    def check(self, shares: tuple[Share, ...]) -> None:
        assert len({id(share.sequence) for share in shares}) == len(shares)
        assert sum(share.num_tokens for share in shares) <= 20
        self.check_room(shares)

    def check_room(self, shares: tuple[Share, ...]) -> None:
        for share in shares:
            sequence = share.sequence
            assert 0 < share.num_tokens <= sequence.num_missing
            assert len(sequence.blocks) * 16 >= sequence.num_computed + share.num_tokens
            for at in range(sequence.num_computed, sequence.num_computed + share.num_tokens):
                # What is written must be this sequence's alone, and nobody may know it by its content.
                assert not self.scheduler.pool.is_shared(sequence.blocks[at // 16])

    def finish(self, shares: tuple[Share, ...], grow: bool, data: st.DataObject) -> None:
        for share in shares:
            sequence = share.sequence
            self.scheduler.computed(share)
            if sequence.num_missing == 0:
                if grow and len(sequence.ids) < MAX_TOKENS:
                    sequence.ids.append(data.draw(st.integers(0, 2)))
                    sequence.num_rows = 1
                else:
                    sequence.is_parked = True

    @precondition(lambda self: len(self.scheduler))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.scheduler.remove(data.draw(st.sampled_from(self.scheduler.sequences)))

    @precondition(lambda self: any(one.is_parked for one in self.scheduler.sequences))
    @rule(data=st.data())
    def extend_again(self, data: st.DataObject) -> None:
        parked = [one for one in self.scheduler.sequences if one.is_parked]
        sequence = data.draw(st.sampled_from(parked))
        length = data.draw(st.integers(0, len(sequence.ids) - 1))
        more = data.draw(st.integers(1, MAX_TOKENS - length))
        self.scheduler.crop(sequence, length)
        self.scheduler.wake(sequence)
        assert len(sequence.ids) == length
        sequence.ids.extend([1] * more)
        sequence.num_rows = 1

    @invariant()
    def blocks_are_conserved(self) -> None:
        self.scheduler.check_integrity()


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_scheduler = SchedulerMachine.TestCase
