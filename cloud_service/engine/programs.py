"""What becomes of a sequence's logits: the next token of an answer, or the log-probabilities of labels."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_service.engine.job import Job, JobEnd, JobOutcome
from cloud_service.engine.sequence import Branch, Owner, Rows
from partition.generation.sampling import choose, log_softmax


class Report:
    """Tells a job's listener of the end, once, with what the job took."""

    def __init__(self, job: Job, owner: Owner) -> None:
        self._job = job
        self._owner = owner
        self._is_done = False

    def __call__(self, end: JobEnd, scores: tuple[float, ...] = ()) -> None:
        """Tell, unless it was told before."""
        if self._is_done:
            return
        self._is_done = True
        owner = self._owner
        waited_s = 0.0 if owner.first_step_s is None else owner.first_step_s - owner.arrived_s
        self._job.listener.on_end(
            JobOutcome(
                end=end,
                cached_tokens=min(owner.cached_tokens or 0, len(self._job.prompt_ids)),
                compute_us=round(owner.compute_s * 1e6),
                queue_us=round(waited_s * 1e6),
                started_s=owner.first_step_s,
                ended_s=time.monotonic(),
                num_steps=owner.num_steps,
                label_log_probabilities=scores,
            )
        )


class GenerateProgram:
    """Chooses one token after the other; see :class:`Program`."""

    def __init__(self, job: Job, report: Callable[[JobEnd], None]) -> None:
        self._job = job
        self._report = report
        self._num_chosen = len(job.answer_ids)

    @property
    def reads_logits(self) -> bool:
        """See :class:`Program`."""
        return self._job.sampling.temperature != 0

    def on_rows(self, rows: Rows) -> tuple[int, ...] | JobEnd:
        """See :class:`Program`."""
        job = self._job
        if job.sampling.temperature == 0:
            token = rows.greedy_ids[-1]
        else:
            position = len(job.prompt_ids) + self._num_chosen
            assert rows.logits is not None
            token = choose(rows.logits[-1], job.sampling, position=position)
        if token in job.end_ids:
            return JobEnd.END_OF_SEQUENCE
        self._num_chosen += 1
        if job.listener.on_token(token):
            return JobEnd.LISTENER
        if self._num_chosen >= job.max_output_tokens:
            return JobEnd.LENGTH
        return (token,)

    def on_end(self, end: JobEnd) -> None:
        """See :class:`Program`."""
        self._report(end)


class ScoreProgram:
    """Scores labels: the prompt once, then each label of several tokens as a branch that shares its blocks."""

    reads_logits = True

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._scores = [0.0] * len(job.labels)
        self._num_open = 0

    def on_rows(self, rows: Rows) -> tuple[Branch, ...] | JobEnd:
        """See :class:`Program`."""
        assert rows.logits is not None
        first = log_softmax(rows.logits[-1])
        branches = []
        for at, label in enumerate(self._job.labels):
            self._scores[at] = float(first[label[0]])
            if len(label) > 1:
                ids = (*self._job.prompt_ids, *label[:-1])
                program = _LabelProgram(self, at)
                branches.append(Branch(ids=ids, num_rows=len(label) - 1, program=program))
        self._num_open = len(branches)
        return tuple(branches) or JobEnd.SCORED

    def on_end(self, end: JobEnd) -> None:
        """See :class:`Program`."""
        self._report(end, tuple(self._scores) if end is JobEnd.SCORED else ())

    def add(self, at: int, rows: Rows) -> None:
        """One branch is computed: add the rest of its label."""
        assert rows.logits is not None
        log_probabilities = log_softmax(rows.logits)
        for row, token in zip(log_probabilities, self._job.labels[at][1:], strict=True):
            self._scores[at] += float(row[token])

    def branch_ended(self, end: JobEnd) -> None:
        """One branch is over; the first that did not end well ends the job."""
        self._num_open -= 1
        if end is not JobEnd.SCORED or self._num_open == 0:
            self.on_end(end)


class _LabelProgram:
    """One label of several tokens."""

    reads_logits = True

    def __init__(self, parent: ScoreProgram, at: int) -> None:
        self._parent = parent
        self._at = at

    def on_rows(self, rows: Rows) -> JobEnd:
        """See :class:`Program`."""
        self._parent.add(self._at, rows)
        return JobEnd.SCORED

    def on_end(self, end: JobEnd) -> None:
        """See :class:`Program`."""
        self._parent.branch_ended(end)
