"""How long work will take: what steps have cost lately, and how much is in front of a request that comes now.

A step of n positions takes about ``a + b n`` seconds; both are followed by recursive least squares that forgets (Haykin,
Adaptive Filter Theory, chapter 10). No tensors and no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FORGETTING: Final = 0.98  # of a step's weight, a step later: about the last fifty count
NUM_STEPS_NEEDED: Final = 16  # before anything is foretold
NUM_ANSWERS_NEEDED: Final = 8  # before the length of an answer is
LENGTH_WEIGHT: Final = 0.1  # of the newest answer in the mean length


class StepCosts:
    """Learns what a step costs. Not thread-safe."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._a = 0.0
        self._b = 0.0
        self._p = (1e6, 0.0, 1e6)  # the upper half of the symmetric inverse of correlations

    @property
    def per_step_s(self) -> float:
        """Seconds of a step, however small."""
        return max(0.0, self._a)

    @property
    def per_position_s(self) -> float:
        """Seconds of one more position in it."""
        return max(0.0, self._b)

    def learn(self, num_positions: int, seconds: float) -> None:
        """Take one measured step in."""
        self.num_steps += 1
        n = float(num_positions)
        p00, p01, p11 = self._p
        g0, g1 = p00 + p01 * n, p01 + p11 * n
        scale = FORGETTING + g0 + g1 * n
        k0, k1 = g0 / scale, g1 / scale
        error = seconds - (self._a + self._b * n)
        self._a += k0 * error
        self._b += k1 * error
        # Bounded: steps of one size alone say nothing of the other direction, and its variance would grow for ever.
        self._p = (
            min(1e6, (p00 - k0 * g0) / FORGETTING),
            (p01 - k0 * g1) / FORGETTING,
            min(1e6, (p11 - k1 * g1) / FORGETTING),
        )
        if abs(self._p[1]) > 1e6:
            self._p = (1e6, 0.0, 1e6)


class AnswerLengths:
    """Follows how long answers turn out. Not thread-safe."""

    def __init__(self) -> None:
        self._num = 0
        self._mean = 0.0

    def learn(self, num_tokens: int) -> None:
        """Take one answer in that ended by itself."""
        self._num += 1
        self._mean += max(LENGTH_WEIGHT, 1 / self._num) * (num_tokens - self._mean)

    def expected(self, limit: int) -> int:
        """How long an answer of at most ``limit`` tokens will be; 1 while too few were seen to tell."""
        if self._num < NUM_ANSWERS_NEEDED:
            return 1
        return max(1, min(limit, round(self._mean)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Work of one sequence that is still to be done."""

    tenant: str
    num_prompt: int  # positions
    num_answer: int  # tokens, as far as can be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a request that comes now may expect."""

    wait_s: float  # until it gets a slot
    own_s: float  # from then on

    @property
    def total_s(self) -> float:
        """Until its answer is whole."""
        return self.wait_s + self.own_s


def foretell(
    costs: StepCosts, demands: Iterable[Demand], own: Demand, *, num_slots: int
) -> Outlook | None:
    """Foretell a request's time under fair sharing; None while too little was measured.

    With a slot free it begins at once. Otherwise the engine first does what is in front of it: of its own tenant everything,
    of each other tenant no more than that, because tenants take turns.

    Args:
        costs: What steps cost.
        demands: All other work, running or waiting.
        own: The new request.
        num_slots: Sequences of one step, at most.
    """
    if costs.num_steps < NUM_STEPS_NEEDED:
        return None
    work = tuple(demands)
    num = min(num_slots, len(work) + 1)

    def seconds(demand: Demand) -> float:
        """The engine's time for it, beside ``num - 1`` others."""
        positions = demand.num_prompt + demand.num_answer
        return costs.per_position_s * positions + costs.per_step_s * demand.num_answer / num

    pace_s = costs.per_step_s + costs.per_position_s * num
    alone_s = costs.per_position_s * own.num_prompt + pace_s * own.num_answer
    if len(work) < num_slots:
        return Outlook(wait_s=0.0, own_s=alone_s)
    by_tenant = {own.tenant: seconds(own)}
    for demand in work:
        by_tenant[demand.tenant] = by_tenant.get(demand.tenant, 0.0) + seconds(demand)
    ours_s = by_tenant.pop(own.tenant)
    total_s = ours_s + sum(min(ours_s, theirs_s) for theirs_s in by_tenant.values())
    return Outlook(wait_s=max(0.0, total_s - alone_s), own_s=alone_s)
