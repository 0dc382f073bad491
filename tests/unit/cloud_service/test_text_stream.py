"""What is shown of a growing answer: everything once, nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_service.engine.text_stream import TextStream

TEXT = st.text(alphabet="ab\n", max_size=40)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


class Letters:
    """A decoder of one character a token; the last one comes late."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, token: int) -> str:
        shown, self._held = self._held, chr(token)
        return shown

    def finish(self) -> str:
        shown, self._held = self._held, ""
        return shown


@given(TEXT, STOPS)
def test_shown_text_is_the_text_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    stream = TextStream(Letters(), stop)
    shown = "".join(stream.feed(ord(letter)) for letter in text) + stream.finish()
    # The stop string that is complete first ends the answer; of those complete together, the longest.
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    expected = text if not ends else text[: min(ends)[1]]
    assert shown == stream.text == expected
    assert stream.is_stopped == bool(ends)


@given(TEXT, STOPS)
def test_nothing_shown_is_ever_taken_back(text: str, stop: list[str]) -> None:
    stream = TextStream(Letters(), stop)
    shown = ""
    for letter in text:
        shown += stream.feed(ord(letter))
        assert stream.text.startswith(shown)
    assert (shown + stream.finish()) == stream.text
