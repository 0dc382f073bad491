"""What a model thinks of the possible answers to a prompt, and prompts with their answers as one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partition.generation.label_tree import LabelTree
from partition.generation.prefill import Prefill

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Choice:
    """What a model thinks of the possible answers to a prompt."""

    num_tokens: int
    num_cached_tokens: int  # of them, taken from an earlier prompt
    logits: Floats  # (vocab_size,), for the first token of the answer
    features: Floats  # (hidden_size,), the residual stream of the prompt's last position
    scores: tuple[tuple[float, ...], ...]  # of each candidate's tokens, natural logarithm

    @classmethod
    def of(cls, prefill: Prefill, scores: tuple[tuple[float, ...], ...]) -> Choice:
        """Of a prompt that was run by itself."""
        return cls(
            num_tokens=prefill.num_tokens,
            num_cached_tokens=prefill.num_cached_tokens,
            logits=prefill.logits,
            features=prefill.features,
            scores=scores,
        )


def side_by_side(
    prompts: Sequence[Sequence[int]], labels: Sequence[LabelTree], shared: int
) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents of prompts behind their first ``shared`` tokens, each with its labels, and where each prompt ends."""
    tokens: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    for ids, tree in zip(prompts, labels, strict=True):
        start, end = len(tokens), len(tokens) + len(ids) - shared - 1
        tokens += [*ids[shared:], *tree.tokens]
        parents += [-1, *range(start, end)]
        parents += [end + 1 + parent for parent in tree.parents]
        ends.append(end)
    return tokens, parents, ends
