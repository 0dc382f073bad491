"""An answer that is being written: from logits to the next token, to pieces of text, to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from partition.generation.prefill import Prefill
from partition.generation.sampling import Sampling, choose, log_probability
from partition.generation.stop_strings import StopStrings
from partition.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]


class GivingUp(Protocol):
    """Whether the caller still waits; a :class:`threading.Event` will do."""

    def is_set(self) -> bool:
        """True once nobody does."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Assignment:
    """One answer that is to be written."""

    ids: Sequence[int] = field(repr=False)  # the prompt
    rule: Sampling  # how tokens are chosen
    max_new_tokens: int  # limit of the answer; the context may end it earlier
    stops: Sequence[str] = field(default=(), repr=False)  # it ends before the first of these
    on_text: Callable[[str], None] | None = None  # called with each new piece of text
    cancel: GivingUp | None = None  # ends the answer where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A written answer."""

    text: str = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)  # without the token that ended it
    log_probabilities: tuple[float, ...]  # of each id, natural logarithm, before temperature
    truncated: bool  # the limit or the caller ended it


class Writing:
    """The state of one answer; whoever runs the model gives it the logits behind each token. Not thread-safe."""

    def __init__(
        self,
        assignment: Assignment,
        prefill: Prefill,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
    ) -> None:
        """Begin behind a prompt and choose the first token.

        Args:
            assignment: What is to be written.
            prefill: Where its prompt has led.
            tokenizer: The model's.
            context_tokens: Longest prompt and answer together.
        """
        self.assignment = assignment
        self.prefill = prefill
        self.is_done = False
        self._end_ids = tokenizer.end_ids
        self._limit = min(assignment.max_new_tokens, context_tokens - prefill.num_tokens)
        self._ids: list[int] = []
        self._log_probabilities: list[float] = []
        self._stream = tokenizer.stream()
        self._stops = StopStrings(assignment.stops)
        self._pieces: list[str] = []
        self._is_truncated = True
        self.take(prefill.logits)

    @property
    def session(self) -> str:
        """Where its keys and values are."""
        return self.prefill.session

    @property
    def last_token(self) -> int:
        """The token to be run for the next logits, while it is not done."""
        return self._ids[-1]

    def look(self) -> None:
        """Be done if the caller gave up."""
        cancel = self.assignment.cancel
        if not self.is_done and cancel is not None and cancel.is_set():
            self._end()

    def take(self, logits: Floats) -> None:
        """Choose the next token, ``logits`` of shape ``(vocab_size,)``, and show the text that became certain."""
        self.look()
        if self.is_done:
            return
        if len(self._ids) >= self._limit:  # of an answer of no tokens
            self._end()
            return
        position = self.prefill.num_tokens + len(self._ids)
        token = choose(logits, self.assignment.rule, position=position)
        if token in self._end_ids:
            self._is_truncated = False
            self._end()
            return
        self._log_probabilities.append(log_probability(logits, token))
        self._ids.append(token)
        self._show(self._stops.add(self._stream.add(token)))
        if self._stops.found:
            self._is_truncated = False
        if self._stops.found or len(self._ids) >= self._limit:
            self._end()

    def result(self) -> Generation:
        """The answer so far."""
        return Generation(
            text="".join(self._pieces),
            ids=tuple(self._ids),
            log_probabilities=tuple(self._log_probabilities),
            truncated=self._is_truncated,
        )

    def _end(self) -> None:
        self.is_done = True
        if not self._stops.found:
            self._show(self._stops.add(self._stream.finish()) + self._stops.finish())

    def _show(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if self.assignment.on_text is not None:
                self.assignment.on_text(piece)
