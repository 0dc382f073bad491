"""Lets a request in only where its deadline can be met: a refusal now, with a time to come back, instead of one at its deadline."""

from __future__ import annotations

import math
from collections.abc import Iterable

from cloud_service.engine.forecast import AnswerLengths, Demand, StepCosts, foretell
from cloud_service.engine.job import Job, JobEnd
from cloud_service.engine.sequence import Sequence
from protos.errors import QuotaExceededError

LEAST_RETRY_S = 0.05
MARGIN = 1.15  # an answer that comes too late costs as much as one in time, so doubt is a reason to refuse
_ENDED_BY_ITSELF = (JobEnd.END_OF_SEQUENCE, JobEnd.LENGTH, JobEnd.LISTENER)


class Admission:
    """Learns from steps and answers on the engine's thread; asked by any thread, which may see numbers a step old."""

    def __init__(self, num_slots: int, tenant_slots: int | None = None) -> None:
        self._num_slots = num_slots
        self._tenant_slots = tenant_slots
        self._costs = StepCosts()
        self._lengths = AnswerLengths()

    def stepped(self, num_positions: int, num_sequences: int, seconds: float) -> None:
        """A step was done."""
        self._costs.learn(num_positions, num_sequences, seconds)

    def positions_in(self, seconds: float, num_sequences: int) -> int | None:
        """How many positions of prompts a step of so many seconds and sequences has; None while that is not known."""
        return self._costs.positions_in(seconds, num_sequences)

    def ended(self, job: Job, num_chosen: int, end: JobEnd) -> None:
        """An answer was ended after so many tokens."""
        if end in _ENDED_BY_ITSELF and not job.labels:
            self._lengths.learn(num_chosen)

    def expected(self, job: Job) -> int:
        """How many tokens are to come, as far as can be told."""
        if job.labels:
            return 1
        return self._lengths.expected(job.max_output_tokens - len(job.answer_ids))

    def check(
        self, job: Job, sequences: Iterable[Sequence], unseen: Iterable[Job], now_s: float
    ) -> None:
        """Let a job in.

        Args:
            job: It.
            sequences: Everything that the engine has to do.
            unseen: What was let in since the engine last looked: a step is long enough for many to come.
            now_s: On the clock of its deadline.

        Raises:
            QuotaExceededError: What is in front of it takes until after its deadline; says when to come back.
        """
        left_s = job.deadline_s - now_s
        if math.isinf(left_s):
            return
        demands = [
            Demand(
                tenant=sequence.owner.tenant,
                num_prompt=sequence.num_missing,
                num_answer=sequence.owner.num_expected,
            )
            for sequence in sequences
            if not sequence.is_parked
        ]
        demands += map(self._demand, unseen)
        own = self._demand(job)
        outlook = foretell(
            self._costs,
            demands,
            own,
            num_slots=self._num_slots,
            tenant_slots=self._tenant_slots,
        )
        # One that would be late even alone is let try: its expected length is a guess, and waiting would not help.
        if outlook is None or outlook.wait_s == 0 or MARGIN * outlook.total_s <= left_s:
            return
        raise QuotaExceededError(
            "too much is in front of this request to meet its deadline; come back later, or allow more time",
            retry_after_s=max(
                LEAST_RETRY_S, min(MARGIN * outlook.total_s - left_s, outlook.wait_s)
            ),
            quota="deadline",
        )

    def _demand(self, job: Job) -> Demand:
        return Demand(
            tenant=job.tenant,
            num_prompt=len(job.prompt_ids) + len(job.answer_ids),
            num_answer=self.expected(job),
        )
