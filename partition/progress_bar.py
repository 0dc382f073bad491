"""A progress bar for bytes, on stderr, for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

APPEARS_AFTER_S = 2.0  # what is faster needs no bar


class ProgressBar:
    """Bytes done of one transfer. Not thread-safe; a context manager.

    Args:
        title: What is being done.
        total_bytes: How many bytes there will be.
        enabled: None shows it when stderr is a terminal, True always, False never.
    """

    def __init__(
        self,
        title: str,
        total_bytes: int,
        *,
        enabled: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._total_bytes = total_bytes
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._clock = clock
        self._started_s = clock()
        self._progress: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done_bytes: int) -> None:
        """Say how many bytes are done, counted from the start; the bar appears here once two seconds have passed."""
        if not self._enabled:
            return
        if self._progress is None:
            if self._clock() - self._started_s < APPEARS_AFTER_S:
                return
            self._start()
        assert self._progress is not None
        assert self._row is not None
        self._progress.update(self._row, completed=min(done_bytes, self._total_bytes))

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._row = self._progress.add_task(self._title, total=self._total_bytes)


@contextmanager
def share_bar(title: str) -> Iterator[Callable[[float], None]]:
    """A bar of shares done, in [0, 1], on stderr when it is a terminal; call what it gives."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(row, completed=share)
