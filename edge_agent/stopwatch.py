"""How long each step of one request took; each is a span of its trace, where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from protos.tracing import span


class Stopwatch:
    """Wall-clock milliseconds by step; belongs to one request and one thread."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ms: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step; the same name twice adds up."""
        started = time.perf_counter()
        try:
            with span(name):
                yield
        finally:
            self._ms[name] = self._ms.get(name, 0.0) + (time.perf_counter() - started) * 1000

    def read(self) -> dict[str, float]:
        """Return the milliseconds by step so far, and ``total`` since the watch was made."""
        return {
            **{name: round(ms, 3) for name, ms in self._ms.items()},
            "total": round((time.perf_counter() - self._started) * 1000, 3),
        }
