"""The loop round a whole-model stage: prefill what is not cached yet, then token by token, or the scores of labels; in batches.

The caches of the last few conversations are kept. A prompt that begins like one of them starts where they part, so that the
fixed part of a task's prompt is computed once. Input that does not fit into the context is refused, never cut: half a report
answers another question, and the cloud may still take the whole.

Of several answers a token of each is one run of the model: the weights are read once for all. Who comes or goes changes no bit
of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from partition.generation.prefill import Prefill
from partition.generation.reading import Reader
from partition.generation.sampling import Sampling
from partition.generation.slots import Slots
from partition.generation.writing import Assignment, Generation, GivingUp, Writing
from partition.stages.stage import BranchingStage
from partition.text.tokenizer import Tokenizer


class Generator:
    """Runs one model, for one caller at a time or for a batch. Not thread-safe; the caller holds a lock."""

    def __init__(
        self,
        stage: BranchingStage,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        num_sessions: int,
        max_batch: int = 1,
    ) -> None:
        """Wrap a stage.

        Args:
            stage: The whole model.
            tokenizer: Its tokenizer.
            context_tokens: Longest prompt and answer together.
            num_sessions: How many conversations stay cached.
            max_batch: How many answers may be written at once.
        """
        self._stage = stage
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self._max_batch = max_batch
        self._slots = Slots(stage, num_kept=num_sessions, max_held=max_batch)
        self._reader = Reader(stage, self._slots, context_tokens=context_tokens)

    @property
    def reader(self) -> Reader:
        """Runs prompts, and scores labels behind them."""
        return self._reader

    def prefill(self, ids: Sequence[int], *, cancel: GivingUp | None = None) -> Prefill:
        """Run a prompt; see :meth:`partition.generation.reading.Reader.prefill`."""
        return self._reader.prefill(ids, cancel=cancel)

    def generate(
        self,
        prefill: Prefill,
        *,
        rule: Sampling,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        cancel: GivingUp | None = None,
    ) -> Generation:
        """Write the answer to the prompt that was prefilled last.

        Args:
            prefill: What :meth:`prefill` returned.
            rule: How tokens are chosen.
            max_new_tokens: Limit of the answer; the context may end it earlier.
            stops: The answer ends before the first of these.
            on_text: Called with each new piece of text, in this thread.
            cancel: Set by another thread to end the answer where it is.
        """
        assignment = Assignment(
            ids=(),
            rule=rule,
            max_new_tokens=max_new_tokens,
            stops=stops,
            on_text=on_text,
            cancel=cancel,
        )
        writing = self._writing(assignment, prefill)
        while not writing.is_done:
            self.step([writing])
        return writing.result()

    def write_many(self, assignments: Sequence[Assignment]) -> tuple[Generation, ...]:
        """Write several answers at once, each as it would be written alone; of more than ``max_batch`` the later ones wait.

        Raises:
            ContextLengthError: A prompt and one token do not fit into the context.
            StoppedError: The ``cancel`` of one was set before it was begun.
        """
        for assignment in assignments:
            self._reader.check_length(assignment.ids)
        writings: list[Writing] = []
        try:
            while len(writings) < len(assignments) or not all(one.is_done for one in writings):
                active = [one for one in writings if not one.is_done]
                for assignment in assignments[len(writings) :][: self._max_batch - len(active)]:
                    writings.append(self.begin(assignment))
                    active.append(writings[-1])
                self.step(active)
                for writing in active:
                    if writing.is_done:
                        self.end(writing)
        finally:
            for writing in writings:
                self.end(writing)
        return tuple(writing.result() for writing in writings)

    def begin(self, assignment: Assignment) -> Writing:
        """Prefill the prompt of an answer, and choose its first token.

        It holds a session until :meth:`end`; at most ``max_batch`` may. Its prompt is run by itself, so that neither it nor the
        answers beside it change by a bit.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        prefill = self._reader.prefill(assignment.ids, cancel=assignment.cancel)
        writing = self._writing(assignment, prefill)
        self._slots.hold(prefill.session)
        return writing

    def step(self, writings: Sequence[Writing]) -> None:
        """Run the last token of each answer that is not done, in one run, and choose the next."""
        for writing in writings:
            writing.look()
        active = [writing for writing in writings if not writing.is_done]
        if not active:
            return
        known = [self._slots.ids(writing.session) for writing in active]
        output = self._stage.extend_each(
            [writing.session for writing in active],
            np.array([writing.last_token for writing in active], np.int32),
            base_lens=[len(ids) for ids in known],
        )
        assert output.logits is not None
        for ids, writing in zip(known, active, strict=True):
            ids.append(writing.last_token)
        for writing, logits in zip(active, output.logits, strict=True):
            writing.take(logits)

    def end(self, writing: Writing) -> None:
        """Let an answer's session go, done or not; a second call does nothing."""
        self._slots.release(writing.session)

    def _writing(self, assignment: Assignment, prefill: Prefill) -> Writing:
        return Writing(assignment, prefill, self._tokenizer, context_tokens=self._context_tokens)
