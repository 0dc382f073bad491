"""The loop round a whole-model stage: prefill what is not cached yet, then token by token, or the scores of labels.

The caches of the last few conversations are kept. A prompt that begins like one of them starts where they part, so that the
fixed part of a task's prompt is computed once. Input that does not fit into the context is refused, never cut: half a report
answers another question, and the cloud may still take the whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ContextLengthError
from partition.generation.sampling import Sampling, choose, log_softmax
from partition.generation.stop_strings import StopStrings
from partition.stages.stage import Stage
from partition.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]

_PREFILL_TOKENS: Final = 256  # between two looks at whether the caller gave up
_WORTH_SHARING_TOKENS: Final = (
    16  # a shorter common beginning does not cost another conversation its cache
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prefill:
    """Where a prompt has led."""

    session: str
    num_tokens: int
    num_cached_tokens: int  # of them, taken from an earlier prompt
    logits: Floats  # (vocab_size,), for the first token of the answer
    features: Floats  # (hidden_size,), the residual stream of the last position


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A written answer."""

    text: str = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)  # without the token that ended it
    log_probabilities: tuple[float, ...]  # of each id, natural logarithm, before temperature
    truncated: bool  # the limit or the caller ended it


class StoppedError(Exception):
    """The caller gave up before there was an answer."""


class Generator:
    """Runs one model for one caller at a time. Not thread-safe; the caller holds a lock."""

    def __init__(
        self, stage: Stage, tokenizer: Tokenizer, *, context_tokens: int, num_sessions: int
    ) -> None:
        """Wrap a stage.

        Args:
            stage: The whole model.
            tokenizer: Its tokenizer.
            context_tokens: Longest prompt and answer together.
            num_sessions: How many conversations stay cached.
        """
        self._stage = stage
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        # Least recently used first: the ids whose keys and values each session holds.
        self._cached: dict[str, list[int]] = {f"slot-{index}": [] for index in range(num_sessions)}

    def prefill(self, ids: Sequence[int], *, cancel: threading.Event | None = None) -> Prefill:
        """Run a prompt up to the logits of the first answer token.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        if not ids:
            raise ValueError("a prompt has at least one token")
        if len(ids) >= self._context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context {self._context_tokens}; shorten the input"
            )
        session, shared = self._best_session(ids)
        cached = self._cached.pop(session)
        self._cached[session] = cached  # now the most recently used
        del cached[shared:]
        self._stage.rewind(session, shared)
        start = shared
        while True:
            if cancel is not None and cancel.is_set():
                raise StoppedError
            end = min(start + _PREFILL_TOKENS, len(ids))
            rows = None if end == len(ids) else np.empty(0, np.int64)
            output = self._stage.extend(
                session, np.array(ids[start:end], np.int32), base_len=start, rows=rows
            )
            cached.extend(ids[start:end])
            if end == len(ids):
                break
            start = end
        assert output.logits is not None
        assert output.features is not None
        return Prefill(
            session=session,
            num_tokens=len(ids),
            num_cached_tokens=shared,
            logits=output.logits[0],
            features=output.features[0],
        )

    def generate(
        self,
        prefill: Prefill,
        *,
        rule: Sampling,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
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
        ids: list[int] = []
        log_probabilities: list[float] = []
        stream, stop_filter = self._tokenizer.stream(), StopStrings(stops)
        pieces: list[str] = []

        def show(piece: str) -> None:
            if piece:
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)

        logits = prefill.logits
        limit = min(max_new_tokens, self._context_tokens - prefill.num_tokens)
        ended = False
        while len(ids) < limit and not (cancel is not None and cancel.is_set()):
            token = choose(logits, rule, position=prefill.num_tokens + len(ids))
            if token in self._tokenizer.end_ids:
                ended = True
                break
            log_probabilities.append(float(log_softmax(logits)[token]))
            ids.append(token)
            show(stop_filter.add(stream.add(token)))
            if stop_filter.found:
                ended = True
                break
            if len(ids) < limit:
                logits = self._step(prefill.session, token)
        if not stop_filter.found:
            show(stop_filter.add(stream.finish()) + stop_filter.finish())
        return Generation(
            text="".join(pieces),
            ids=tuple(ids),
            log_probabilities=tuple(log_probabilities),
            truncated=not ended,
        )

    def score(
        self, prefill: Prefill, candidates: Sequence[Sequence[int]]
    ) -> tuple[tuple[float, ...], ...]:
        """Log-probabilities of each candidate's tokens as the answer to the prompt that was prefilled last.

        Beginnings that candidates share are run once, and a candidate's last token is not run at all.
        """
        known: dict[tuple[int, ...], npt.NDArray[np.float64]] = {(): log_softmax(prefill.logits)}
        for candidate in sorted(tuple(candidate) for candidate in candidates):
            for length in range(1, len(candidate)):
                begin = candidate[:length]
                if begin not in known:
                    self._rewind(prefill.session, prefill.num_tokens + length - 1)
                    known[begin] = log_softmax(self._feed(prefill, begin))
        self._rewind(prefill.session, prefill.num_tokens)
        return tuple(
            tuple(float(known[tuple(candidate[:at])][token]) for at, token in enumerate(candidate))
            for candidate in candidates
        )

    def _feed(self, prefill: Prefill, begin: tuple[int, ...]) -> Floats:
        """Run the last token of a candidate's beginning behind the others of it."""
        cached = self._cached[prefill.session]
        missing = begin[len(cached) - prefill.num_tokens :]
        if tuple(cached[prefill.num_tokens :]) != begin[: -len(missing)]:
            self._rewind(prefill.session, prefill.num_tokens)
            missing = begin
        for token in missing[:-1]:
            self._step(prefill.session, token)
        return self._step(prefill.session, missing[-1])

    def _step(self, session: str, token: int) -> Floats:
        cached = self._cached[session]
        output = self._stage.extend(session, np.array([token], np.int32), base_len=len(cached))
        cached.append(token)
        assert output.logits is not None
        logits: Floats = output.logits[0]
        return logits

    def _rewind(self, session: str, length: int) -> None:
        if length < len(self._cached[session]):
            del self._cached[session][length:]
            self._stage.rewind(session, length)

    def _best_session(self, ids: Sequence[int]) -> tuple[str, int]:
        """Which session to continue, and how many of its positions stand."""
        oldest = next(iter(self._cached))
        best, longest = oldest, _common(self._cached[oldest], ids)
        for session, cached in self._cached.items():
            shared = _common(cached, ids)
            if shared >= _WORTH_SHARING_TOKENS and shared > longest:
                best, longest = session, shared
        # The last token is always run: its logits are what is asked for.
        return best, min(longest, len(ids) - 1)


def _common(cached: Sequence[int], ids: Sequence[int]) -> int:
    length = min(len(cached), len(ids))
    differences = np.flatnonzero(np.asarray(cached[:length]) != np.asarray(ids[:length]))
    return int(differences[0]) if len(differences) else length
