"""Greedy and shared-seed Gumbel sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.generation.sampling import SamplingRule, choose, gumbel_noise, uniforms, warped


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert choose(np.array([1.0, 3.0, 3.0, 2.0]), SamplingRule(), position=0) == 1


def test_uniforms_come_from_philox_words_seven_five() -> None:
    # Philox4x64-10, key 7, counter (0, 5, 0, 0): the first two raw words, shifted and centred.
    words = (7765043888015689510, 3509751079277994002)
    expected = [((word >> 12) + 0.5) * 2.0**-52 for word in words]
    assert uniforms(7, 5, np.array([0, 1])).tolist() == expected


def test_noise_depends_on_the_id_and_not_on_its_company() -> None:
    alone = gumbel_noise(3, 11, np.array([17]))
    together = gumbel_noise(3, 11, np.array([2, 17, 40]))
    assert alone[0] == together[1]


def test_uniforms_never_reach_zero_or_one() -> None:
    values = uniforms(1, 1, np.arange(100_000))
    assert 0 < values.min() < values.max() < 1


def test_a_seed_repeats_and_another_position_differs() -> None:
    logits = np.zeros(50)
    rule = SamplingRule(temperature=1.0, seed=9)
    chosen = [choose(logits, rule, position=position) for position in range(20)]
    assert chosen == [choose(logits, rule, position=position) for position in range(20)]
    assert len(set(chosen)) > 5


def test_frequencies_are_the_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    rule = SamplingRule(temperature=1.0, seed=4)
    counts = np.zeros(4)
    for position in range(4000):
        counts[choose(np.log(probabilities), rule, position=position)] += 1
    np.testing.assert_allclose(counts / 4000, probabilities, atol=0.03)


def test_temperature_sharpens() -> None:
    logits = np.log(np.array([0.6, 0.4]))
    _, cold = warped(logits, SamplingRule(temperature=0.5))
    np.testing.assert_allclose(np.exp(cold), [0.36 / 0.52, 0.16 / 0.52])


def test_top_k_keeps_the_lowest_ids_of_equals() -> None:
    ids, _ = warped(np.array([1.0, 2.0, 1.0, 1.0]), SamplingRule(temperature=1.0, top_k=2))
    assert ids.tolist() == [0, 1]


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    ids, _ = warped(logits, SamplingRule(temperature=1.0, top_p=0.6))
    assert ids.tolist() == [0, 1]
    ids, _ = warped(logits, SamplingRule(temperature=1.0, top_p=1e-9))
    assert ids.tolist() == [0]


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    st.floats(0.1, 3),
    st.integers(0, 40),
    st.floats(0.01, 1),
)
def test_what_is_left_adds_up_to_one(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    rule = SamplingRule(temperature=temperature, top_k=top_k, top_p=top_p)
    ids, log_probabilities = warped(np.array(logits), rule)
    assert len(ids) >= 1
    assert np.isclose(np.exp(log_probabilities).sum(), 1)
    assert (np.diff(ids) > 0).all()
    assert int(np.argmax(logits)) in ids


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_impossible_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="correct the request"):
        SamplingRule(**wrong)


@given(
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.0, 0.01, 1.0, 5.0]),
    top_p=st.floats(0.01, 0.999),
    digits=st.sampled_from([0, 1, 9]),  # few digits: many are equally likely
)
def test_a_large_vocabulary_is_cut_where_a_whole_sort_would_cut_it(
    seed: int, spread: float, top_p: float, digits: int
) -> None:
    logits = np.round(np.random.default_rng(seed).normal(0, spread, 6000), digits)
    order = np.argsort(-logits, kind="stable")
    probabilities = np.exp(logits[order]) / np.exp(logits).sum()
    cumulative = np.cumsum(probabilities)
    found, _ = warped(logits, SamplingRule(temperature=1.0, top_p=top_p))
    assert found.tolist() == sorted(order[: len(found)].tolist())
    # The last of them reaches top_p, to the rounding of a sum.
    assert cumulative[len(found) - 1] >= top_p - 1e-9
    assert len(found) == 1 or cumulative[len(found) - 2] < top_p + 1e-9
