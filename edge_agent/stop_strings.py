"""Cuts an answer before the first of the caller's stop strings, also while it streams.

On the device and after restoring, because a stop string may hold an identifier: the models see surrogates.
"""

from __future__ import annotations


class StopCutter:
    """Holds back no more than what could still become a stop string. Not thread-safe."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return what is certain to stand."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        num_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def finish(self) -> str:
        """Return what was held back: the text has ended, so no stop string follows."""
        held, self._held = self._held, ""
        return held

    def cut(self, text: str) -> str:
        """Cut a whole text."""
        return self.feed(text) + self.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``, characters."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
