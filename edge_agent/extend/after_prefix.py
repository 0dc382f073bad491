"""A stream of text without its beginning."""

from __future__ import annotations

from collections.abc import Callable


class AfterPrefix:
    """Passes a stream of text on without its beginning, which somebody has got already."""

    def __init__(self, shown: str, on_text: Callable[[str], None]) -> None:
        self._left = len(shown)
        self._on_text = on_text

    def __call__(self, piece: str) -> None:
        """Take one piece."""
        rest = piece[self._left :]
        self._left = max(0, self._left - len(piece))
        if rest:
            self._on_text(rest)
