"""Prompts read by a model: what is not cached yet is run, as many prompts in one run as pay; scores of labels behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ContextLengthError
from partition.generation.choice import Choice, side_by_side
from partition.generation.label_tree import LabelTree
from partition.generation.prefill import Prefill
from partition.generation.slots import WORTH_SHARING_TOKENS, Slots, common
from partition.generation.writing import GivingUp
from partition.stages.stage import BranchingStage

Floats = npt.NDArray[np.float32]

_PREFILL_TOKENS: Final = 256  # between two looks at whether the caller gave up


class StoppedError(Exception):
    """The caller gave up before there was an answer."""


class Reader:
    """Runs prompts through one model. Not thread-safe; the caller holds a lock."""

    def __init__(self, stage: BranchingStage, slots: Slots, *, context_tokens: int) -> None:
        """Wrap a stage and its sessions; ``context_tokens`` is the longest prompt and answer together."""
        self._stage = stage
        self._slots = slots
        self._context_tokens = context_tokens

    def prefill(self, ids: Sequence[int], *, cancel: GivingUp | None = None) -> Prefill:
        """Run a prompt up to the logits of the first answer token.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        self.check_length(ids)
        session, shared = self._slots.best(ids)
        session = self._slots.take(session, shared)
        # The last piece is the one whose logits are asked for.
        last = shared + (len(ids) - shared - 1) // _PREFILL_TOKENS * _PREFILL_TOKENS
        self._advance(session, ids, last, cancel)
        _look(cancel)
        output = self._stage.extend(session, np.array(ids[last:], np.int32), base_len=last)
        self._slots.ids(session).extend(ids[last:])
        assert output.logits is not None
        assert output.features is not None
        return Prefill(
            session=session,
            num_tokens=len(ids),
            num_cached_tokens=shared,
            logits=output.logits[0],
            features=output.features[0],
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
        cancel: GivingUp | None = None,
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
        cancel: GivingUp | None = None,
    ) -> tuple[Choice, ...]:
        """Prefill prompts and score the possible answers of each, as many in one run as pay.

        Prompts of any lengths lie side by side behind what they begin with alike, which is run once, each followed by its
        candidates (:mod:`partition.stages.branches`). Each gets what it would get alone but for rounding: sums of attention have another
        order, which 8 bits behind it make as large as what they cost anyway.

        Args:
            prompts: Token ids.
            candidates: For each prompt, token ids of its possible answers.
            cancel: Set by another thread to give up; looked at between two runs.

        Raises:
            ContextLengthError: A prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
        """
        for ids in prompts:
            self.check_length(ids)
        labels = [LabelTree.of(some) for some in candidates]
        found: list[Choice] = []
        while len(found) < len(prompts):
            found += self._choose_next(prompts[len(found) :], labels[len(found) :], cancel)
        return tuple(found)

    def check_length(self, ids: Sequence[int]) -> None:
        """Refuse a prompt that is too long; may be called by any thread.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
        """
        if not ids:
            raise ValueError("a prompt has at least one token")
        if len(ids) >= self._context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context {self._context_tokens}; shorten the input"
            )

    def _together(
        self, prompts: Sequence[Sequence[int]], labels: Sequence[LabelTree]
    ) -> tuple[int, int]:
        """How many of the prompts to run together, and how many tokens they begin with alike."""
        shared, count, num_labels = len(prompts[0]) - 1, 1, len(labels[0])
        for ids, tree in zip(prompts[1:], labels[1:], strict=True):
            fewer = min(common(prompts[0][:shared], ids), len(ids) - 1)
            num_labels += len(tree)
            num_new = sum(len(one) - fewer for one in prompts[: count + 1]) + num_labels
            if fewer < WORTH_SHARING_TOKENS or num_new > _PREFILL_TOKENS:
                break
            if fewer + num_new > self._stage.max_branched_tokens:
                break
            shared, count = fewer, count + 1
        return count, shared

    def _choose_next(
        self,
        prompts: Sequence[Sequence[int]],
        labels: Sequence[LabelTree],
        cancel: GivingUp | None,
    ) -> list[Choice]:
        count, shared = self._together(prompts, labels)
        prompts, labels = prompts[:count], labels[:count]
        first = prompts[0]
        session, num_cached = self._slots.best(first)
        if count == 1:
            shared = max(num_cached, len(first) - _PREFILL_TOKENS)
        num_cached = min(num_cached, shared)
        nodes, parents, ends = side_by_side(prompts, labels, shared)
        if shared < 1 or shared + len(nodes) > self._stage.max_branched_tokens:
            # Nothing is cached that branches could follow, or a window would count them wrongly.
            prefill = self.prefill(first, cancel=cancel)
            scores = self.score(prefill, labels[0].candidates)
            return [Choice.of(prefill, scores)]
        session = self._slots.take(session, num_cached)
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
        self._slots.ids(session).extend(first[shared:])
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
        self._slots.rewind(session, length)
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

    def _advance(self, session: str, ids: Sequence[int], end: int, cancel: GivingUp | None) -> None:
        """Run a prompt up to a position, without logits."""
        cached = self._slots.ids(session)
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


def _look(cancel: GivingUp | None) -> None:
    if cancel is not None and cancel.is_set():
        raise StoppedError
