"""Pieces of one streamed answer on their way to the caller."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.restore import StreamRestorer

OnText = Callable[[str], None]


class Showing:
    """Restores the pieces of one stream and passes them on."""

    def __init__(self, restorer: StreamRestorer | None, emit: OnText) -> None:
        self._restorer = restorer
        self._emit = emit

    def feed(self, piece: str) -> None:
        """Pass on what of the stream is certain by this piece."""
        self._emit(self._restorer.feed(piece) if self._restorer is not None else piece)

    def finish(self) -> None:
        """Pass on what was held back."""
        if self._restorer is not None:
            self._emit(self._restorer.finish())
