"""Which sequences run in the next step, and how many positions of each.

* A tenant's turn comes by the tokens it has been given so far, divided by its weight (virtual token counters, 2401.00588):
  one that floods waits behind one that asks little. Within a tenant the earliest deadline is first.
* Sequences that lack few positions (decoding, verification) run in every step: they are what somebody is reading along with.
  What is left of the step's budget goes to prompts, in pieces. Only while a tenant that has had much less waits for a first
  token, the others sit out the step of its prompt; and a step that runs when it comes is held up for that one, between two
  layers.
* Memory short: idle sequences are dropped first, then the least urgent running one. Both keep their ids and compute again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloud_service.engine.kv_blocks import BLOCK_TOKENS, BlockPool, PrefixDigests
from cloud_service.engine.sequence import Sequence

MAX_TENANT_SHARE = 0.75  # of the slots, while another tenant might want one
FEW_POSITIONS = 17  # a frame of 16 drafts; more is a prompt
LEAD_STEPS = 0.25  # of a step's positions, by which a tenant may be ahead of one that waits
LAG_STEPS = 4.0  # of a step's positions, by which one can be behind: a prompt of usual length, and no saved-up hour
OUTPUT_WEIGHT = 2.0  # a decoded token costs about two of a prompt


@dataclass(frozen=True, slots=True)
class Share:
    """``num_tokens`` of one sequence in a step; its blocks are allocated."""

    sequence: Sequence
    num_tokens: int


def tenant_slots(max_sequences: int) -> int:
    """How many of the slots one tenant may hold."""
    return max(1, int(max_sequences * MAX_TENANT_SHARE))


class Scheduler:
    """Owner of slots and blocks. Not thread-safe; knows no clock and no tensors."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_sequences: int,
        step_tokens: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.pool = pool
        self._digests = PrefixDigests()
        self._max_sequences = max_sequences
        self._step_tokens = max(step_tokens, max_sequences)
        self._weights = dict(weights or {})
        self._served: dict[str, float] = {}
        self._floor = 0.0  # what every tenant counts as having had at least; never falls
        self._sequences: list[Sequence] = []  # all, in order of arrival
        self.num_preemptions = 0

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def num_waiting(self) -> int:
        """Sequences that have work and no slot."""
        return sum(
            1 for sequence in self._sequences if not (sequence.is_admitted or sequence.is_parked)
        )

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All of them, idle ones too."""
        return tuple(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in; it waits for its turn."""
        self._served.setdefault(sequence.owner.tenant, self._floor)
        self._sequences.append(sequence)

    def holds(self, sequence: Sequence) -> bool:
        """Whether it was added and not removed."""
        return any(other is sequence for other in self._sequences)

    def wake(self, sequence: Sequence) -> None:
        """A parked sequence has work again."""
        if sequence.num_computed == 0:
            # It is admitted anew, and finds what the prefix cache has of it.
            self._give_back(sequence)
        sequence.is_parked = False

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and give its blocks back."""
        self._give_back(sequence)
        self._sequences.remove(sequence)

    def plan(self, room_of: Callable[[int], int | None] = lambda num: None) -> tuple[Share, ...]:
        """Choose the next step and allocate its blocks; empty when there is nothing to do.

        Args:
            room_of: Says for how many positions of prompts a step has time in which so many sequences decode; None: no limit.
        """
        self._bound_lag()
        ready = self._ready()
        return self._choose(ready, self._tenants_ahead(ready), room_of)

    def plan_inserted(self) -> tuple[Share, ...]:
        """Choose what is to be computed in the middle of a step, whose sequences are left as they are; mostly nothing.

        It is a prompt whose tenant has had much less than one of those that the step is for.
        """
        self._bound_lag()
        ready = self._ready()
        ahead = self._tenants_ahead(ready)
        if any(one.is_running and one.owner.tenant in ahead for one in self._sequences):
            return self._choose(ready, ahead, lambda num: None)
        return ()

    def _bound_lag(self) -> None:
        """Nobody is far behind the others: credit cannot be saved up, neither at rest nor by asking little.

        Who comes when nobody is there begins where the last ones were: else the next would wait until he had as much.
        """
        working = self._working_tenants()
        most = max((self._served[tenant] for tenant in working), default=0.0)
        self._floor = max(self._floor, most - LAG_STEPS * self._step_tokens)
        for tenant in working:
            self._served[tenant] = max(self._served[tenant], self._floor)

    def _working_tenants(self) -> set[str]:
        return {one.owner.tenant for one in self._sequences if not one.is_parked}

    def _ready(self) -> list[Sequence]:
        """Sequences with work that no step is doing, the most urgent first."""
        ready = (one for one in self._sequences if not (one.is_parked or one.is_running))
        return sorted(ready, key=self._urgency)

    def _tenants_ahead(self, ready: list[Sequence]) -> set[str]:
        """Tenants that sit this step out: another one, that has had much less, waits for its first token.

        A step then is as short as that prompt alone, and what it takes is soon paid back by the counters.
        """
        first = next((one for one in ready if one.num_missing > FEW_POSITIONS), None)
        if first is None or not (first.is_admitted or self._has_slot(first)):
            return set()
        limit = self._served[first.owner.tenant] + LEAD_STEPS * self._step_tokens
        working = self._working_tenants()
        return {tenant for tenant in working if self._served[tenant] > limit}

    def _choose(
        self, ready: list[Sequence], ahead: set[str], room_of: Callable[[int], int | None]
    ) -> tuple[Share, ...]:
        shares: list[Share] = []
        budget = self._step_tokens

        def take(sequence: Sequence, num_tokens: int) -> int:
            if not self._make_room(sequence, sequence.num_computed + num_tokens):
                return 0
            sequence.is_running = True
            shares.append(Share(sequence, num_tokens))
            return num_tokens

        turns = [one for one in ready if one.owner.tenant not in ahead]
        for sequence in turns:
            if sequence.is_admitted and sequence.num_missing <= min(FEW_POSITIONS, budget):
                budget -= take(sequence, sequence.num_missing)
        if shares and not ahead and (room := room_of(len(shares))) is not None:
            budget = min(budget, max(BLOCK_TOKENS, room))
        for sequence in turns:
            if budget <= 0:
                break
            if sequence.is_running or not (sequence.is_admitted or self._admit(sequence)):
                continue
            budget -= take(sequence, min(sequence.num_missing, budget))
        return tuple(shares)

    def computed(self, share: Share) -> None:
        """A step is done: count it, and make its full blocks known."""
        sequence = share.sequence
        sequence.is_running = False
        tenant = sequence.owner.tenant
        cost = share.num_tokens * (OUTPUT_WEIGHT if share.num_tokens == 1 else 1.0)
        self._served[tenant] += cost / self._weights.get(tenant, 1.0)
        sequence.num_computed += share.num_tokens
        if sequence.is_tail:
            return
        full = sequence.num_computed // BLOCK_TOKENS
        while len(sequence.digests) < full:
            at = len(sequence.digests)
            digest = self._digest(sequence, at)
            sequence.digests.append(digest)
            self.pool.publish(sequence.blocks[at], digest)

    def crop(self, sequence: Sequence, length: int) -> None:
        """Take positions off the end; a block that others may see is not written again but replaced when needed."""
        del sequence.ids[length:]
        sequence.rows = None
        sequence.num_computed = min(sequence.num_computed, length)
        full = sequence.num_computed // BLOCK_TOKENS
        del sequence.digests[full:]
        keep = -(-sequence.num_computed // BLOCK_TOKENS)
        if (
            keep > full
            and len(sequence.blocks) > full
            and self.pool.is_shared(sequence.blocks[full])
        ):
            keep, sequence.num_computed = full, full * BLOCK_TOKENS
        for block in sequence.blocks[keep:]:
            self.pool.release(block)
        del sequence.blocks[keep:]

    def check_integrity(self) -> None:
        """Assert what must hold between steps."""
        self.pool.check_integrity([sequence.blocks for sequence in self._sequences])
        for sequence in self._sequences:
            assert 0 <= sequence.num_computed <= len(sequence.ids)
            assert sequence.num_computed <= len(sequence.blocks) * BLOCK_TOKENS
            num_known = 0 if sequence.is_tail else sequence.num_computed // BLOCK_TOKENS
            assert len(sequence.digests) == num_known
            assert sequence.is_admitted or not sequence.blocks
            assert sequence.is_admitted or not sequence.is_running
        assert sum(sequence.is_admitted for sequence in self._sequences) <= self._max_sequences

    def _urgency(self, sequence: Sequence) -> tuple[float, float, int]:
        owner = sequence.owner
        return self._served[owner.tenant], owner.deadline_s, sequence.number

    def _admit(self, sequence: Sequence) -> bool:
        if not self._has_slot(sequence):
            return False
        admitted = [other for other in self._sequences if other.is_admitted]
        if len(admitted) >= self._max_sequences:
            idle = (other for other in admitted if other.is_parked)
            self._give_back(min(idle, key=lambda other: other.number))
        sequence.is_admitted = True
        self._find_prefix(sequence)
        return True

    def _has_slot(self, sequence: Sequence) -> bool:
        """Whether a slot is free, or can be had from an idle sequence; a tenant has its share of them."""
        admitted = [other for other in self._sequences if other.is_admitted]
        tenant = sequence.owner.tenant
        own = sum(1 for other in admitted if other.owner.tenant == tenant and not other.is_parked)
        if own >= tenant_slots(self._max_sequences):
            return False
        return len(admitted) < self._max_sequences or any(one.is_parked for one in admitted)

    def _find_prefix(self, sequence: Sequence) -> None:
        most = (len(sequence.ids) - sequence.num_rows) // BLOCK_TOKENS
        if sequence.is_tail:
            most = 0
        for at in range(most):
            digest = self._digest(sequence, at)
            block = self.pool.find(digest)
            if block is None:
                break
            sequence.blocks.append(block)
            sequence.digests.append(digest)
        sequence.num_computed = len(sequence.blocks) * BLOCK_TOKENS
        if sequence.owner.cached_tokens is None:
            sequence.owner.cached_tokens = sequence.num_computed

    def _digest(self, sequence: Sequence, at: int) -> bytes:
        before = sequence.digests[at - 1] if at else self._digests.root(sequence.owner.tenant)
        ids = sequence.ids[at * BLOCK_TOKENS : (at + 1) * BLOCK_TOKENS]
        return self._digests.following(before, ids)

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Give a sequence the blocks for ``length`` positions, at the cost of less urgent ones if need be."""
        needed = sequence.blocks_for(length)
        while self.pool.num_available < needed:
            victim = self._victim(sequence)
            if victim is None:
                return False
            self._give_back(victim)
            if not victim.is_parked:
                self.num_preemptions += 1
        sequence.blocks.extend(self.pool.allocate() for _ in range(needed))
        return True

    def _victim(self, sequence: Sequence) -> Sequence | None:
        holders = [
            other
            for other in self._sequences
            if other.blocks and other is not sequence and not other.is_running
        ]
        if idle := [other for other in holders if other.is_parked]:
            return min(idle, key=lambda other: other.number)
        least = max(holders, key=self._urgency, default=None)
        if least is None or self._urgency(least) < self._urgency(sequence):
            return None
        return least

    def _give_back(self, sequence: Sequence) -> None:
        if sequence.is_tail and sequence.num_computed:
            sequence.is_lost = sequence.is_parked = True
        for block in sequence.blocks:
            self.pool.release(block)
        sequence.blocks.clear()
        sequence.digests.clear()
        sequence.num_computed = 0
        sequence.rows = None
        sequence.is_admitted = sequence.is_running = False
