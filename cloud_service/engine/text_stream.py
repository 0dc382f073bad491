"""From tokens to text, as it grows, and never past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """Decodes a growing sequence: whole characters only, the pieces add up to the whole."""

    def add(self, token: int) -> str:
        """Add one token; returns new text."""

    def finish(self) -> str:
        """What is left when no token follows."""


class _NoTokens:
    """The decoder of an answer that comes as text."""

    def add(self, token: int) -> str:
        """See :class:`Decoder`."""
        raise AssertionError("this answer comes as text")

    def finish(self) -> str:
        """See :class:`Decoder`."""
        return ""


class TextStream:
    """Text of one answer; what may be the beginning of a stop string is held back. Not thread-safe."""

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, self._stop), default=1)
        self._text = ""
        self._num_shown = 0
        self.is_stopped = False

    @classmethod
    def of_text(cls, stop: Sequence[str] = ()) -> TextStream:
        """Make one for an answer that comes as text; use :meth:`feed_text`."""
        return cls(_NoTokens(), stop)

    @property
    def text(self) -> str:
        """Everything so far, also what is held back; without the stop string."""
        return self._text

    def feed(self, token_id: int) -> str:
        """Take one token; returns the text that can be shown now. After a stop string nothing is taken."""
        return "" if self.is_stopped else self._take(self._decoder.add(token_id))

    def feed_text(self, piece: str) -> str:
        """Take a piece of text instead of a token; otherwise as :meth:`feed`."""
        return "" if self.is_stopped else self._take(piece)

    def finish(self) -> str:
        """The sequence has ended: returns what was held back."""
        if self.is_stopped:
            return ""
        shown = self._take(self._decoder.finish())
        if not self.is_stopped:
            shown += self._text[self._num_shown :]
            self._num_shown = len(self._text)
        return shown

    def _take(self, new: str) -> str:
        searched = max(0, len(self._text) - self._longest_stop + 1)
        self._text += new
        found = [at for stop in self._stop if (at := self._text.find(stop, searched)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.is_stopped = True
            safe = len(self._text)
        else:
            safe = len(self._text) - self._num_unsafe()
        shown = self._text[self._num_shown : safe]
        self._num_shown = max(self._num_shown, safe)
        return shown

    def _num_unsafe(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        most = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._text)), most, -1):
                if self._text.endswith(stop[:length]):
                    most = length
                    break
        return most
