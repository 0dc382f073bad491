"""Possible answers as a tree of tokens: what they begin with alike stands in it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partition.generation.sampling import log_softmax

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LabelTree:
    """All proper beginnings of some candidates; a candidate's last token need not be run."""

    candidates: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]  # of each node
    parents: tuple[int, ...]  # node before each, -1: the end of the prompt
    nodes: dict[tuple[int, ...], int]  # by the tokens that lead there; () is -1

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]]) -> LabelTree:
        """Lay out candidates, each of at least one token."""
        known = tuple(tuple(candidate) for candidate in candidates)
        nodes: dict[tuple[int, ...], int] = {(): -1}
        for candidate in sorted(known):  # so that a path's nodes mostly follow each other
            for length in range(1, len(candidate)):
                nodes.setdefault(candidate[:length], len(nodes) - 1)
        beginnings = list(nodes)[1:]
        return cls(
            candidates=known,
            tokens=tuple(beginning[-1] for beginning in beginnings),
            parents=tuple(nodes[beginning[:-1]] for beginning in beginnings),
            nodes=nodes,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def scores(self, logits: Floats) -> tuple[tuple[float, ...], ...]:
        """Log-probabilities of the tokens of each candidate.

        Args:
            logits: ``(1 + nodes, vocab_size)``, of the prompt's last position and of each node.
        """
        known = log_softmax(logits)
        return tuple(
            tuple(
                float(known[1 + self.nodes[candidate[:at]], token])
                for at, token in enumerate(candidate)
            )
            for candidate in self.candidates
        )
