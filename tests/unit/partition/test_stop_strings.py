"""Stop strings in a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partition.generation.stop_strings import StopStrings


def run(pieces: list[str], stops: list[str]) -> str:
    stop = StopStrings(stops)
    return "".join(stop.add(piece) for piece in pieces) + stop.finish()


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    assert run(["one E", "N", "D two"], ["END"]) == "one "


def test_what_only_looked_like_one_is_shown_after_all() -> None:
    assert run(["one E", "N", "X"], ["END"]) == "one ENX"
    assert run(["one EN"], ["END"]) == "one EN"


@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=2),
)
def test_equals_cutting_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    shown = run(pieces, stops)
    whole = "".join(pieces)
    assert whole.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not any(stop in whole for stop in stops):
        assert shown == whole
