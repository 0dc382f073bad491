"""Ends a growing text where a stop string begins, and shows none of it before it is sure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Filters the pieces of one answer. Not thread-safe."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False  # a stop string has come; nothing more is shown

    def add(self, piece: str) -> str:
        """Take in new text; returns what may be shown now."""
        if self.found:
            return ""
        self._held += piece
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        keep = self._possible_start()
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown

    def finish(self) -> str:
        """What was held back in case more came; empty once a stop string was found."""
        shown, self._held = self._held, ""
        return shown

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
