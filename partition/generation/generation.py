"""The loop round a whole-model stage: prefill what is not cached yet, then token by token, or the scores of labels; in batches.

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
from partition.generation.choice import Choice, side_by_side
from partition.generation.label_tree import LabelTree
from partition.generation.sampling import Sampling, choose, log_softmax
from partition.generation.stop_strings import StopStrings
from partition.stages.stage import BranchingStage
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
        self, stage: BranchingStage, tokenizer: Tokenizer, *, context_tokens: int, num_sessions: int
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
        self._check_length(ids)
        session, shared = self._best_session(ids)
        self._take(session, shared)
        # The last piece is the one whose logits are asked for.
        last = shared + (len(ids) - shared - 1) // _PREFILL_TOKENS * _PREFILL_TOKENS
        self._advance(session, ids, last, cancel)
        _look(cancel)
        output = self._stage.extend(session, np.array(ids[last:], np.int32), base_len=last)
        self._cached[session].extend(ids[last:])
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
        labels = LabelTree.of(candidates)
        logits = prefill.logits[None]
        if len(labels):
            logits = np.concatenate((logits, self._run_labels(prefill, labels)))
        return labels.scores(logits)

    def choose(
        self,
        ids: Sequence[int],
        candidates: Sequence[Sequence[int]],
        *,
        cancel: threading.Event | None = None,
    ) -> Choice:
        """Prefill a prompt and score its possible answers; where the prompt's beginning is cached, in one run.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        return self.choose_many([ids], [candidates], cancel=cancel)[0]

    def choose_many(
        self,
        prompts: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[Sequence[int]]],
        *,
        cancel: threading.Event | None = None,
    ) -> tuple[Choice, ...]:
        """Prefill prompts and score the possible answers of each, as many in one run as pay.

        Prompts of any lengths lie side by side behind what they begin with alike, which is run once, each followed by its
        candidates (:mod:`partition.stages.branches`). Each gets what it would get alone.

        Args:
            prompts: Token ids.
            candidates: For each prompt, token ids of its possible answers.
            cancel: Set by another thread to give up; looked at between two runs.

        Raises:
            ContextLengthError: A prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        for ids in prompts:
            self._check_length(ids)
        labels = [LabelTree.of(some) for some in candidates]
        found: list[Choice] = []
        while len(found) < len(prompts):
            start = len(found)
            end, shared = self._together(prompts[start:], labels[start:])
            some = prompts[start : start + end], labels[start : start + end]
            found += self._choose_together(*some, shared, cancel)
        return tuple(found)

    def _together(
        self, prompts: Sequence[Sequence[int]], labels: Sequence[LabelTree]
    ) -> tuple[int, int]:
        """How many of the prompts to run together, and how many tokens they begin with alike."""
        shared, count, num_labels = len(prompts[0]) - 1, 1, len(labels[0])
        for ids, tree in zip(prompts[1:], labels[1:], strict=True):
            fewer = min(_common(prompts[0][:shared], ids), len(ids) - 1)
            num_labels += len(tree)
            num_new = sum(len(one) - fewer for one in prompts[: count + 1]) + num_labels
            if fewer < _WORTH_SHARING_TOKENS or num_new > _PREFILL_TOKENS:
                break
            if fewer + num_new > self._stage.max_branched_tokens:
                break
            shared, count = fewer, count + 1
        return count, shared

    def _choose_together(
        self,
        prompts: Sequence[Sequence[int]],
        labels: Sequence[LabelTree],
        shared: int,
        cancel: threading.Event | None,
    ) -> list[Choice]:
        first = prompts[0]
        session, num_cached = self._best_session(first)
        if len(prompts) == 1:
            shared = max(num_cached, len(first) - _PREFILL_TOKENS)
        num_cached = min(num_cached, shared)
        nodes, parents, ends = side_by_side(prompts, labels, shared)
        if shared < 1 or shared + len(nodes) > self._stage.max_branched_tokens:
            # Nothing is cached that branches could follow, or a window would count them wrongly.
            prefill = self.prefill(first, cancel=cancel)
            scores = self.score(prefill, labels[0].candidates)
            return [Choice.of(prefill, scores)]
        self._take(session, num_cached)
        self._advance(session, first, shared, cancel)
        _look(cancel)
        rows = [range(end, end + 1 + len(tree)) for end, tree in zip(ends, labels, strict=True)]
        output = self._stage.extend_branches(
            session,
            np.array(nodes, np.int32),
            base_len=shared,
            parents=parents,
            rows=np.concatenate([np.array(some) for some in rows]),
        )
        self._cached[session].extend(first[shared:])
        self._stage.rewind(session, len(first))
        assert output.logits is not None
        assert output.features is not None
        found: list[Choice] = []
        at = 0
        for ids, tree in zip(prompts, labels, strict=True):
            logits = output.logits[at : at + 1 + len(tree)]
            choice = Choice(
                num_tokens=len(ids),
                num_cached_tokens=shared if found else num_cached,
                logits=logits[0],
                features=output.features[at],
                scores=tree.scores(logits),
            )
            found.append(choice)
            at += 1 + len(tree)
        return found

    def _run_labels(self, prefill: Prefill, labels: LabelTree) -> Floats:
        """Logits behind each node of the tree; the session is left at the prompt's end."""
        session, length = prefill.session, prefill.num_tokens
        self._rewind(session, length)
        if length + len(labels) <= self._stage.max_branched_tokens:
            rows = np.arange(len(labels))
            tokens = np.array(labels.tokens, np.int32)
            output = self._stage.extend_branches(
                session, tokens, base_len=length, parents=labels.parents, rows=rows
            )
            assert output.logits is not None
            logits = output.logits
        else:
            logits = np.empty((len(labels), len(prefill.logits)), np.float32)
            for candidate in labels.candidates:
                path = candidate[:-1]
                if path:
                    nodes = [labels.nodes[path[: at + 1]] for at in range(len(path))]
                    output = self._stage.extend(
                        session,
                        np.array(path, np.int32),
                        base_len=length,
                        rows=np.arange(len(path)),
                    )
                    assert output.logits is not None
                    logits[nodes] = output.logits
        self._stage.rewind(session, length)
        return logits

    def _check_length(self, ids: Sequence[int]) -> None:
        if not ids:
            raise ValueError("a prompt has at least one token")
        if len(ids) >= self._context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context {self._context_tokens}; shorten the input"
            )

    def _take(self, session: str, length: int) -> None:
        """Make a session the most recently used one, and keep its first positions only."""
        cached = self._cached.pop(session)
        self._cached[session] = cached
        del cached[length:]
        self._stage.rewind(session, length)

    def _advance(
        self, session: str, ids: Sequence[int], end: int, cancel: threading.Event | None
    ) -> None:
        """Run a prompt up to a position, without logits."""
        cached = self._cached[session]
        while len(cached) < end:
            _look(cancel)
            start = len(cached)
            piece = ids[start : min(start + _PREFILL_TOKENS, end)]
            self._stage.extend(
                session,
                np.array(piece, np.int32),
                base_len=start,
                rows=np.empty(0, np.int64),
            )
            cached.extend(piece)

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


def _look(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise StoppedError


def _common(cached: Sequence[int], ids: Sequence[int]) -> int:
    length = min(len(cached), len(ids))
    differences = np.flatnonzero(np.asarray(cached[:length]) != np.asarray(ids[:length]))
    return int(differences[0]) if len(differences) else length
