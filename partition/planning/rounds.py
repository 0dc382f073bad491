"""How many rounds of VERIFY an answer of so many tokens takes: more than tokens by tokens a round, for the last one is cut.

With ``S_i`` the probability that the first i drafts all stand, a round of g drafts ends behind the i-th with probability
``S_i - S_(i+1)`` and emits i + 1 tokens; m tokens from the end it drafts ``min(g, m - 1)``:

    N(0) = 0        N(m) = 1 + sum_i P[i + 1 tokens] N(m - i - 1)

For long answers N(m) tends to m / E(g), the ratio of :mod:`partition.extend.draft_length`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Expected counts of one answer."""

    num_rounds: float
    num_drafts: float


@lru_cache(maxsize=256)
def expected_rounds(survival: tuple[float, ...], length: int, num_tokens: int) -> Rounds:
    """Rounds and drafts until ``num_tokens`` have been emitted.

    Args:
        survival: S_1 .. S_n.
        length: Drafts of a round that is not cut, at most n.
        num_tokens: Of the answer, behind its first, which comes with the prompt.
    """
    rounds, drafts = [0.0], [0.0]
    for left in range(1, num_tokens + 1):
        most = min(length, left - 1)
        stands = (1.0, *survival[:most], 0.0)
        num_rounds, num_drafts = 1.0, float(most)
        for accepted in range(most + 1):
            share = stands[accepted] - stands[accepted + 1]
            num_rounds += share * rounds[left - accepted - 1]
            num_drafts += share * drafts[left - accepted - 1]
        rounds.append(num_rounds)
        drafts.append(num_drafts)
    return Rounds(num_rounds=rounds[-1], num_drafts=drafts[-1])
