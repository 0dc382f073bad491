"""The batching engine: every step runs what the scheduler chose of many sequences, as one row of tokens.

One thread owns scheduler, memory and model. Other threads only put requests into a box; the thread empties it between
steps, so a cancellation takes effect within one step. It looks into it between two layers as well: the prompt of a tenant that
has had much less is computed there and then, in a step inserted into the one that runs.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cloud_service.engine.admission import Admission
from cloud_service.engine.errand import Errand
from cloud_service.engine.forward import ForwardPass
from cloud_service.engine.job import Job, JobEnd
from cloud_service.engine.kv_blocks import BLOCK_TOKENS, BlockPool
from cloud_service.engine.passing_thread import in_passing
from cloud_service.engine.programs import GenerateProgram, Report, ScoreProgram
from cloud_service.engine.scheduler import Scheduler, Share, tenant_slots
from cloud_service.engine.sequence import Branch, Owner, Program, Rows, Sequence
from protos.errors import QuotaExceededError, UnavailableError

logger = logging.getLogger(__name__)

QUEUE_RETRY_S = 1.0
SWEEP_S = 0.5  # how often deadlines are looked at while nothing runs


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """How much the engine does at once."""

    max_waiting: int = 256
    max_sequences: int = 32
    step_tokens: int = 256
    step_s: float | None = (
        None  # of a step in which somebody reads along; None: as long as it takes
    )
    kv_bytes: int = 1 << 30
    threads: int = 0  # 0: as many as there are cores


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step, for metrics."""

    num_tokens: int
    num_sequences: int
    num_preemptions: int  # since the step before
    seconds: float


class BatchingEngine:
    """Continuous batching over a transformers decoder; see :class:`cloud_service.engine.job.Engine`."""

    def __init__(
        self,
        module: Any,
        limits: EngineLimits,
        *,
        weights: Mapping[str, float] | None = None,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        """Take over a module: its attention is replaced.

        Args:
            module: A transformers causal language model, in evaluation mode.
            limits: How much at once.
            weights: Of tenants; 1 where none is named.
            on_step: Called on the engine's thread after each step.

        Raises:
            MemoryError: ``kv_bytes`` does not hold one block.
        """
        self._forward = in_passing(lambda: ForwardPass(module, limits.kv_bytes))
        self._limits = limits
        self._on_step = on_step
        self._scheduler = Scheduler(
            BlockPool(self._forward.num_blocks),
            max_sequences=limits.max_sequences,
            step_tokens=limits.step_tokens,
            weights=weights,
        )
        self._num_told = 0  # preemptions
        self._admission = Admission(limits.max_sequences, tenant_slots(limits.max_sequences))
        self._numbers = itertools.count()
        self._jobs: dict[int, tuple[Job, Owner]] = {}  # by number of arrival, of the thread
        self._box: list[Errand] = []
        self._unseen: list[Job] = []  # in the box
        self._arrived = threading.Condition()  # guards what other threads see and change
        self._is_closed = False
        self._is_inserting = False  # a step is held up for another
        self._inserted_s = 0.0  # spent on insertions so far
        self._thread = threading.Thread(target=self._run, name="tandem-engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """See :class:`Engine`."""
        return self._scheduler.num_waiting + len(self._unseen)

    @property
    def capacity_tokens(self) -> int:
        """See :class:`Engine`."""
        return self._scheduler.pool.num_blocks * BLOCK_TOKENS

    @property
    def kv_usage(self) -> float:
        """Share of the blocks that some sequence uses."""
        pool = self._scheduler.pool
        return pool.num_used / pool.num_blocks

    @property
    def num_preemptions(self) -> int:
        """How often a running sequence had to give its memory to a more urgent one."""
        return self._scheduler.num_preemptions

    def submit(self, job: Job) -> None:
        """See :class:`Engine`."""
        if self.num_waiting >= self._limits.max_waiting:
            raise QuotaExceededError(
                "too many requests wait for the model; try again later",
                retry_after_s=QUEUE_RETRY_S,
                quota="queued_requests",
            )
        with self._arrived:
            unseen = tuple(self._unseen)
            self._admission.check(job, self._scheduler.sequences, unseen, time.monotonic())
            self._unseen.append(job)
        self.call(lambda: self._start(job))

    def call(
        self, work: Callable[[], None], sequence: Callable[[], Sequence | None] = lambda: None
    ) -> None:
        """Run something on the engine's thread, between two steps or two layers; from any thread.

        Args:
            work: It.
            sequence: Says, on the engine's thread, which sequence it changes: what a step computes is left alone until its end.

        Raises:
            UnavailableError: The engine is closed.
        """
        with self._arrived:
            if self._is_closed:
                raise UnavailableError(
                    "this server is shutting down; call again", retry_after_s=1.0
                )
            self._box.append(Errand(work, sequence))
            self._arrived.notify()

    def close(self) -> None:
        """See :class:`Engine`."""
        with self._arrived:
            self._is_closed = True
            self._arrived.notify()
        self._thread.join()

    def check_integrity(self) -> None:
        """Assert what must hold at any time; on the engine's thread, or after :meth:`close`."""
        self._scheduler.check_integrity()

    def add_sequence(
        self,
        owner: Owner,
        program: Program,
        ids: tuple[int, ...],
        num_rows: int,
        *,
        stage_start: int = 0,
        hidden: torch.Tensor | None = None,
    ) -> Sequence:
        """Take a sequence in; on the engine's thread. A later stage has ids that mean nothing, and hidden states."""
        sequence = Sequence(
            owner=owner,
            number=next(self._numbers),
            ids=list(ids),
            num_rows=num_rows,
            program=program,
            stage_start=stage_start,
            hidden=hidden,
        )
        self._scheduler.add(sequence)
        return sequence

    def extend(
        self,
        sequence: Sequence,
        crop_to: int,
        ids: tuple[int, ...],
        num_rows: int,
        *,
        hidden: torch.Tensor | None = None,
    ) -> None:
        """Give a parked sequence more to do; on the engine's thread. The one primitive of generation and verification."""
        self._scheduler.crop(sequence, crop_to)
        self._scheduler.wake(sequence)
        sequence.ids.extend(ids)
        sequence.num_rows = num_rows
        sequence.hidden = hidden

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence without a word, if it is still there; on the engine's thread."""
        if self._scheduler.holds(sequence):
            self._scheduler.remove(sequence)

    def holds(self, sequence: Sequence) -> bool:
        """Whether a sequence was not ended meanwhile; on the engine's thread."""
        return self._scheduler.holds(sequence) and not sequence.is_lost

    def _run(self) -> None:
        if self._limits.threads:
            torch.set_num_threads(self._limits.threads)
        with torch.inference_mode():
            while True:
                with self._arrived:
                    if not (self._box or self._is_closed or self._has_work()):
                        self._arrived.wait()
                    is_closed = self._is_closed
                self._empty_box()
                if is_closed:
                    break
                self._sweep()
                if shares := self._scheduler.plan(self._room_of):
                    self._compute(shares)
                elif (
                    self._has_work()
                ):  # all of it waits for a slot that a parked sequence cannot give
                    time.sleep(0.001)
        for sequence in self._scheduler.sequences:
            self._end(sequence, JobEnd.CLOSED)

    def _empty_box(self) -> None:
        with self._arrived:
            errands = list(itertools.takewhile(lambda one: one.can_be_done, self._box))
            del self._box[: len(errands)]
        for errand in errands:
            errand.work()

    def _compute(self, shares: tuple[Share, ...]) -> None:
        # Sequences that begin at another layer run in a pass of their own.
        by_stage: dict[int, list[Share]] = {}
        for share in shares:
            by_stage.setdefault(share.sequence.stage_start, []).append(share)
        started_s = self._step_clock_s()
        for group in by_stage.values():
            self._step(tuple(group))
        seconds = self._step_clock_s() - started_s
        num_tokens = sum(share.num_tokens for share in shares)
        self._admission.stepped(num_tokens, len(shares), seconds)

    def _step_clock_s(self) -> float:
        """Stands still while a step is held up for another."""
        return time.monotonic() - self._inserted_s

    def _on_layer(self) -> None:
        """Hold the running step up for whoever came meanwhile and has had much less; mostly returns at once."""
        if not self._box or self._is_inserting:
            return
        started_s = time.monotonic()
        self._is_inserting = True
        try:
            self._empty_box()
            while not self._is_closed and (shares := self._scheduler.plan_inserted()):
                self._compute(shares)
                self._empty_box()
                self._sweep()
        finally:
            self._is_inserting = False
            self._inserted_s += time.monotonic() - started_s

    def _room_of(self, num_sequences: int) -> int | None:
        """Positions of prompts for which a step with so many sequences has time."""
        step_s = self._limits.step_s
        return None if step_s is None else self._admission.positions_in(step_s, num_sequences)

    def _has_work(self) -> bool:
        return any(not sequence.is_parked for sequence in self._scheduler.sequences)

    def _start(self, job: Job) -> None:
        with self._arrived:
            self._unseen.remove(job)
        owner = Owner(
            tenant=job.tenant,
            deadline_s=job.deadline_s,
            arrived_s=time.monotonic(),
            num_expected=self._admission.expected(job),
        )
        report = Report(job, owner)
        longest = max(map(len, job.labels), default=job.max_output_tokens)
        if len(job.prompt_ids) + longest > self.capacity_tokens:
            report(JobEnd.FAILED)
            logger.warning("a job is larger than the KV cache; raise `engine.kv_bytes`")
            return
        if not job.labels and len(job.answer_ids) >= job.max_output_tokens:
            report(JobEnd.LENGTH)
            return
        program: Program = ScoreProgram(job, report) if job.labels else GenerateProgram(job, report)
        number = self.add_sequence(owner, program, job.prompt_ids + job.answer_ids, 1).number
        self._jobs[number] = (job, owner)

    def _sweep(self) -> None:
        """End what nobody waits for any more."""
        for number, (job, owner) in tuple(self._jobs.items()):
            if job.is_cancelled:
                owner.is_wanted = False
                del self._jobs[number]
        now_s = time.monotonic()
        for sequence in self._scheduler.sequences:
            if sequence.is_running:
                continue  # this is in the middle of its step
            if sequence.is_lost:
                self._end(sequence, JobEnd.LOST)
            elif not sequence.owner.is_wanted:
                self._end(sequence, JobEnd.CANCELLED)
            elif not sequence.is_parked and now_s > sequence.owner.deadline_s:
                self._end(sequence, JobEnd.DEADLINE)

    def _step(self, shares: tuple[Share, ...]) -> None:
        now_s, started_s = time.monotonic(), self._step_clock_s()
        for share in shares:
            owner = share.sequence.owner
            if owner.first_step_s is None:
                owner.first_step_s = now_s
        try:
            results = self._forward.run(shares, self._on_layer)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            # Out of memory, or a model that does what the interface does not foresee; the text may hold content.
            logger.error("a step failed: %s", type(error).__name__)
            for share in shares:
                self._end(share.sequence, JobEnd.FAILED)
            return
        seconds = self._step_clock_s() - started_s
        num_tokens = sum(share.num_tokens for share in shares)
        for share, rows in zip(shares, results, strict=True):
            sequence = share.sequence
            sequence.owner.compute_s += seconds * share.num_tokens / num_tokens
            sequence.owner.num_steps += 1
            self._scheduler.computed(share)
            if sequence.hidden is not None:
                sequence.hidden = sequence.hidden[share.num_tokens :]
            self._advance(sequence, rows)
        if self._on_step is not None:
            preempted, self._num_told = self.num_preemptions - self._num_told, self.num_preemptions
            report = StepReport(
                num_tokens=num_tokens,
                num_sequences=len(shares),
                num_preemptions=preempted,
                seconds=seconds,
            )
            self._on_step(report)

    def _advance(self, sequence: Sequence, rows: Rows) -> None:
        if sequence.rows is not None:
            rows, sequence.rows = sequence.rows + rows, None
        if sequence.num_missing:
            if rows.greedy_ids:  # else none of these positions was wanted
                sequence.rows = rows
            return
        try:
            verdict = sequence.program.on_rows(rows)
        except Exception as error:
            # The outermost loop of this thread: a listener's bug must not stop everybody's answers.
            logger.error("a program failed: %s", type(error).__name__)
            verdict = JobEnd.FAILED
        if isinstance(verdict, JobEnd):
            self._end(sequence, verdict)
        elif verdict is None:
            sequence.is_parked = True
        elif verdict and isinstance(verdict[0], Branch):
            self._branch(sequence, verdict)
        else:
            sequence.ids.extend(verdict)  # type: ignore[arg-type]  # no branches here
            sequence.num_rows = 1
            sequence.owner.num_expected = max(1, sequence.owner.num_expected - 1)

    def _branch(self, sequence: Sequence, branches: tuple[Any, ...]) -> None:
        owner = sequence.owner
        for branch in branches:
            self.add_sequence(owner, branch.program, branch.ids, branch.num_rows)
        # Only now: the blocks that the branches share stay known.
        self._scheduler.remove(sequence)

    def _end(self, sequence: Sequence, end: JobEnd) -> None:
        self._scheduler.remove(sequence)
        job = self._jobs.pop(sequence.number, None)
        if job is not None:
            self._admission.ended(job[0], len(sequence.ids) - len(job[0].prompt_ids), end)
        sequence.program.on_end(end)
