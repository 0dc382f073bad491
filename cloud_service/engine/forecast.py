"""How long work will take: what steps have cost lately, and how much is in front of a request that comes now.

A step takes about ``a + b (positions) + c (sequences)`` seconds; the three are followed by recursive least squares that
forgets (Haykin, Adaptive Filter Theory, chapter 10). No tensors and no clock here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

FORGETTING: Final = 0.98  # of a step's weight, a step later: about the last fifty count
NUM_STEPS_NEEDED: Final = 16  # before anything is foretold
NUM_ANSWERS_NEEDED: Final = 8  # before the length of an answer is
_VAGUE: Final = 1e6  # the variance of what is not known
LENGTH_WEIGHT: Final = 0.1  # of the newest answer in the mean length


class StepCosts:
    """Learns what a step costs. Not thread-safe."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._weights = np.zeros(3)
        self._spread = np.eye(3) * _VAGUE

    @property
    def per_step_s(self) -> float:
        """Seconds of a step, however small."""
        return max(0.0, float(self._weights[0]))

    @property
    def per_position_s(self) -> float:
        """Seconds of one more position of a prompt in it."""
        return max(0.0, float(self._weights[1]))

    @property
    def per_sequence_s(self) -> float:
        """Seconds of one more sequence in it, which costs more than a position: it has a past of its own to attend to."""
        return max(0.0, float(self._weights[2]))

    def positions_in(self, seconds: float, num_sequences: int) -> int | None:
        """How many positions of prompts a step of so many seconds and sequences has; None while that is not known."""
        if self.num_steps < NUM_STEPS_NEEDED or self.per_position_s == 0:
            return None
        left_s = seconds - self.per_step_s - self.per_sequence_s * num_sequences
        return max(0, int(left_s / self.per_position_s))

    def learn(self, num_positions: int, num_sequences: int, seconds: float) -> None:
        """Take one measured step in."""
        self.num_steps += 1
        features = np.array([1.0, num_positions, num_sequences])
        gain = self._spread @ features
        gain = gain / (FORGETTING + features @ gain)
        self._weights = self._weights + gain * (seconds - features @ self._weights)
        spread = (self._spread - np.outer(gain, features @ self._spread)) / FORGETTING
        # Steps of one kind alone say nothing of the others, whose variance would grow for ever.
        self._spread = (
            (spread + spread.T) / 2 if np.trace(spread) < 4 * _VAGUE else np.eye(3) * _VAGUE
        )


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

    wait_s: float  # for what is in front of it
    own_s: float  # for itself, beside others

    @property
    def total_s(self) -> float:
        """Until its answer is whole."""
        return self.wait_s + self.own_s


def foretell(
    costs: StepCosts,
    demands: Iterable[Demand],
    own: Demand,
    *,
    num_slots: int,
    tenant_slots: int | None = None,
) -> Outlook | None:
    """Foretell a request's time under fair sharing; None while too little was measured.

    Whatever is in front of it is done before it or beside it, and takes the engine's time either way: of its own tenant
    everything, of each other tenant no more than that, because tenants take turns.

    Args:
        costs: What steps cost.
        demands: All other work, running or waiting.
        own: The new request.
        num_slots: Sequences of one step, at most.
        tenant_slots: Of one tenant; None: as many.
    """
    if costs.num_steps < NUM_STEPS_NEEDED:
        return None
    work = tuple(demands)
    counts = Counter(demand.tenant for demand in work)
    num_ahead = counts[own.tenant]
    counts[own.tenant] += 1
    most = num_slots if tenant_slots is None else tenant_slots
    num = min(num_slots, sum(min(most, count) for count in counts.values()))  # sequences of a step

    def seconds(demand: Demand) -> float:
        """The engine's time for it, beside ``num - 1`` others."""
        token_s = costs.per_position_s + costs.per_sequence_s + costs.per_step_s / num
        return costs.per_position_s * demand.num_prompt + token_s * demand.num_answer

    # Its own tokens come one a step, and the steps are as full as they will be: measured, an answer is whole so much after
    # the time that the work in front takes.
    pace_s = costs.per_step_s + num * (costs.per_position_s + costs.per_sequence_s)
    own_s = costs.per_position_s * own.num_prompt + pace_s * own.num_answer
    if num_ahead >= most:
        # Whoever ends makes room for another, whose prompt is computed in the steps of those that go on: while an answer of
        # the usual length is written, as many as run beside it.
        own_s += costs.per_position_s * own.num_prompt * (most - 1)
    by_tenant = {own.tenant: 0.0}
    for demand in work:
        by_tenant[demand.tenant] = by_tenant.get(demand.tenant, 0.0) + seconds(demand)
    ours_s = by_tenant.pop(own.tenant)
    turn_s = ours_s + seconds(own)
    wait_s = ours_s + sum(min(turn_s, theirs_s) for theirs_s in by_tenant.values())
    return Outlook(wait_s=wait_s, own_s=own_s)
