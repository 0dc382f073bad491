"""Guesses from what the text said before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.extend.lookup import LONGEST, MOST_GUESSED, SHORTEST, continuation


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((), ()),
        ((7,), ()),
        ((1, 2, 3, 4), ()),  # nothing repeats
        ((1, 9, 2, 1), ()),  # one token alone is chance
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2), (3, 4, 5, 6, 7, 8)),
        ((1, 2, 3, 0, 1, 2, 4, 0, 1, 2), (4, 0, 1, 2)),  # the last time
        ((5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2), (3, 6, 1, 2, 4, 5)),  # the longest run before the last
        ((8, 8, 8), (8,)),  # it may overlap with itself
    ],
)
def test_what_followed(ids: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert continuation(ids) == expected


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, MOST_GUESSED))
def test_it_is_what_stands_behind_the_longest_run(ids: list[int], most: int) -> None:
    text = tuple(ids)
    guess = continuation(text, most)
    assert len(guess) <= most
    places = [
        (length, start)
        for length in range(SHORTEST, LONGEST + 1)
        for start in range(len(text) - length)
        if text[start : start + length] == text[len(text) - length :]
    ]
    if not places or not most:
        assert guess == ()
    else:
        length, start = max(places)
        assert guess == text[start + length : start + length + most]
