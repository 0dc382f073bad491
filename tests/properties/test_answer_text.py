"""Laws of text that arrives in pieces: nothing twice, nothing lost, nothing that is taken back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.answer_text import AnswerText, DivergedError

TEXT = st.text(alphabet="ab\n é", max_size=30)


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 30), max_size=6)


@given(
    whole=TEXT,
    attempts=st.lists(st.tuples(st.booleans(), st.integers(0, 30), CUTS), max_size=4),
    last=CUTS,
)
def test_a_reader_sees_the_answer_once(
    whole: str, attempts: list[tuple[bool, int, list[int]]], last: list[int]
) -> None:
    answer, seen = AnswerText(), ""
    for resumes, length, cuts in attempts:  # each breaks off after some characters
        start = len(answer.shown) if resumes else 0
        answer.go_on() if resumes else answer.begin_anew()
        for piece in split(whole[start : start + length], cuts):
            seen += answer.add(piece)
        assert seen == answer.shown and whole.startswith(seen)
    answer.begin_anew()
    for piece in split(whole, last):
        seen += answer.add(piece)
    seen += answer.finish(whole)
    assert seen == whole


@given(whole=TEXT, shown=st.integers(0, 30))
def test_a_replay_needs_no_pieces(whole: str, shown: int) -> None:
    answer = AnswerText()
    seen = answer.add(whole[:shown])
    answer.begin_anew()
    assert seen + answer.finish(whole) == whole


@given(shown=TEXT.filter(bool), other=TEXT, cuts=CUTS)
def test_another_answer_is_noticed(shown: str, other: str, cuts: list[int]) -> None:
    answer = AnswerText()
    answer.add(shown)
    answer.begin_anew()
    seen = shown
    try:
        for piece in split(other, cuts):
            seen += answer.add(piece)
        seen += answer.finish(other)
    except DivergedError:
        assert not other.startswith(shown)
    else:
        assert seen == other


def test_an_answer_shorter_than_what_was_shown_is_another() -> None:
    answer = AnswerText()
    answer.add("abc")
    with pytest.raises(DivergedError):
        answer.finish("ab")
