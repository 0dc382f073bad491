"""From the engine's thread to one coroutine: text waits here for a slow reader, merged, never more than one answer of it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from cloud_service.engine.job import JobOutcome


@dataclass(slots=True, eq=False)
class Letter:
    """Everything that came since the last one was taken."""

    text: str = field(default="", repr=False)
    token_ids: list[int] = field(default_factory=list, repr=False)
    outcome: JobOutcome | None = None
    is_interrupted: bool = False


class Mailbox:
    """Written by any thread, read by one coroutine of the loop it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._letter = Letter()

    def add_tokens(self, text: str, token_ids: list[int]) -> None:
        """More text; ``token_ids`` are what was chosen since the last call."""
        with self._lock:
            self._letter.text += text
            self._letter.token_ids += token_ids
        self._wake()

    def add_outcome(self, outcome: JobOutcome) -> None:
        """The end."""
        with self._lock:
            self._letter.outcome = outcome
        self._wake()

    def interrupt(self) -> None:
        """Let the reader go, on the loop."""
        with self._lock:
            self._letter.is_interrupted = True
        self._arrived.set()

    async def take(self) -> Letter:
        """Wait until there is something; an interrupt stays set."""
        await self._arrived.wait()
        self._arrived.clear()
        with self._lock:
            letter, self._letter = self._letter, Letter()
        return letter

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)
