"""From logits to a token id: greedy, or the shared-seed Gumbel rule, which two machines can repeat without talking.

Above temperature 0 the token at absolute position t is ``argmax_v(log p(v) + g(t, v))`` with Gumbel noise g that depends on
seed, position and id alone (2408.07978). It is distributed exactly as p, and whoever knows prompt, seed and model knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# u = ((word >> 12) + 0.5) * 2**-52 lies strictly between 0 and 1; with >> 11 it could round to 1 and g be infinite.
_SHIFT: Final = np.uint64(12)
_STEP: Final = 2.0**-52
_FEW_IDS: Final = 256  # that are sorted first when the likeliest are looked for


class Sampling(Protocol):
    """What a sampling rule says; any object with these will do."""

    @property
    def temperature(self) -> float:
        """0 is greedy."""

    @property
    def top_k(self) -> int:
        """Keep so many of the likeliest; 0 keeps all."""

    @property
    def top_p(self) -> float:
        """Keep the likeliest whose probabilities add up to this; 1 keeps all."""

    @property
    def seed(self) -> int:
        """Any integer; of it the lowest 64 bits count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRule:
    """How the next token is chosen."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1; correct the request"
            )


def choose(logits: npt.NDArray[Any], rule: Sampling, *, position: int) -> int:
    """Choose one token.

    Args:
        logits: ``(vocab_size,)`` of any float type.
        rule: How.
        position: Absolute position of the token that is chosen; the first token of a prompt has position 0.
    """
    scores = np.asarray(logits, np.float64)
    if rule.temperature == 0:
        return int(scores.argmax())  # the lowest id on ties
    ids, log_probabilities = warped(scores, rule)
    noise = gumbel_noise(rule.seed, position, ids)
    return int(ids[(log_probabilities + noise).argmax()])


def warped(
    logits: npt.NDArray[np.float64], rule: Sampling
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Apply temperature, top-k and top-p in this order, as transformers does.

    Returns:
        The ids that are left, ascending, and their log-probabilities, which add up to 1 when taken exp of.
    """
    scores = logits / rule.temperature
    # Likeliest first; a stable sort, so that of equals the lowest id comes first on every machine.
    if 0 < rule.top_k < len(scores):
        order = _likeliest(scores, rule.top_k)[: rule.top_k]
        if rule.top_p < 1:
            cumulative = np.cumsum(np.exp(log_softmax(scores[order])))
            order = order[: _count_to(rule.top_p, cumulative)]
    elif rule.top_p < 1:
        order = _nucleus(scores, rule.top_p)
    else:
        return np.arange(len(scores)), log_softmax(scores)
    order = np.sort(order)
    return order, log_softmax(scores[order])


def _nucleus(scores: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """The likeliest ids whose probabilities add up to ``top_p``: mostly few, so that few are sorted, 2 ms instead of 16 of 151,936."""
    largest = scores.max()
    normalizer = largest + np.log(np.exp(scores - largest).sum())
    count = _FEW_IDS
    while True:
        order = _likeliest(scores, count)
        cumulative = np.cumsum(np.exp(scores[order] - normalizer))
        if cumulative[-1] >= top_p or count >= len(scores):
            return order[: _count_to(top_p, cumulative)]
        count *= 16


def _likeliest(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """At least ``count`` ids, more where the last are equally likely; likeliest first, of equals the lowest id."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")]


def _count_to(top_p: float, cumulative: npt.NDArray[np.float64]) -> int:
    # The token that reaches top_p is kept, so at least one always is.
    return int(np.searchsorted(cumulative, top_p)) + 1


def gumbel_noise(seed: int, position: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The noise g(position, id) for each id: Philox4x64-10, key (seed, 0), counter (0, position, 0, 0), word number id."""
    return -np.log(-np.log(uniforms(seed, position, ids)))


def uniforms(seed: int, position: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The numbers in (0, 1) behind the noise."""
    key = np.array([seed % 2**64, 0], np.uint64)
    counter = np.array([0, position, 0, 0], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(int(ids.max()) + 1)
    return ((words[ids] >> _SHIFT).astype(np.float64) + 0.5) * _STEP


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities along the last axis."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def log_probability(logits: npt.NDArray[Any], token: int) -> float:
    """Natural logarithm of one token's probability, ``logits`` of shape ``(vocab_size,)``; as :func:`log_softmax` has it."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max()
    found = shifted[token]
    return float(found - np.log(np.exp(shifted, out=shifted).sum()))
