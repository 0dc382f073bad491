"""Expected rounds of an answer: by hand, by simulation, and in the limit."""

from __future__ import annotations

import numpy as np
import pytest

from partition.extend.draft_length import geometric, tokens_per_round
from partition.planning.rounds import expected_rounds


def test_by_hand() -> None:
    survival = geometric(0.5)
    assert expected_rounds(survival, 2, 0).num_rounds == 0
    one = expected_rounds(survival, 2, 1)  # nothing to draft: the verifier's own token
    assert (one.num_rounds, one.num_drafts) == (1, 0)
    two = expected_rounds(survival, 2, 2)  # one draft; where it fails, a second round
    assert (two.num_rounds, two.num_drafts) == (1.5, 1)


@pytest.mark.parametrize(("acceptance", "length", "num_tokens"), [(0.8, 4, 15), (0.97, 16, 40)])
def test_as_simulated(acceptance: float, length: int, num_tokens: int) -> None:
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(4000):
        left, num_rounds, num_drafts = num_tokens, 0, 0
        while left:
            drafts = min(length, left - 1)
            stood = rng.random(drafts) < acceptance
            left -= (int(np.argmin(stood)) if not stood.all() else drafts) + 1
            num_rounds, num_drafts = num_rounds + 1, num_drafts + drafts
        counts.append((num_rounds, num_drafts))
    found = expected_rounds(geometric(acceptance), length, num_tokens)
    assert np.mean(counts, axis=0) == pytest.approx((found.num_rounds, found.num_drafts), rel=0.02)


def test_a_long_answer_takes_tokens_by_tokens_a_round() -> None:
    survival = geometric(0.8)
    found = expected_rounds(survival, 6, 5000)
    assert found.num_rounds == pytest.approx(5000 / tokens_per_round(survival, 6), rel=1e-3)
    short = expected_rounds(survival, 6, 8)
    assert short.num_rounds > 1.1 * 8 / tokens_per_round(survival, 6)
