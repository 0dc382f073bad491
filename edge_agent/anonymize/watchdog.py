"""A time limit for work that cannot be interrupted: it runs in a thread of its own, and is left behind when it hangs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edge_agent.errors import AnonymizationError, AnonymizerTimeoutError, RecognizerFailedError

logger = logging.getLogger(__name__)

_MAX_HANGING = 8  # threads left behind; more would say that the machine or a pattern is broken
_PATIENCE = 4.0  # times the limit, for work that a busy machine keeps from running
_STEP_S = 0.05
_QUEUE_S = 30.0  # waiting for a turn is no fault of the text

Result = TypeVar("Result")


class Watchdog:
    """Runs work with a limit of its own thread's time, some pieces at once. Threads may share it."""

    def __init__(self, *, timeout_s: float, timeout_s_per_4kb: float) -> None:
        self._timeout_s = timeout_s
        self._timeout_s_per_4kb = timeout_s_per_4kb
        self._turns = threading.Semaphore(max(1, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._hanging = 0

    def run(self, work: Callable[[Callable[[str], None]], Result], num_characters: int) -> Result:
        """Call ``work`` with a function that it tells each stage.

        Raises:
            AnonymizerTimeoutError: The limit passed, or too many earlier pieces still hang.
            AnonymizationError: What the work raised; anything else becomes RecognizerFailedError without its text.
        """
        limit = self._timeout_s + self._timeout_s_per_4kb * (num_characters / 4096)
        if self._hanging >= _MAX_HANGING or not self._turns.acquire(timeout=_QUEUE_S):
            raise AnonymizerTimeoutError("queue")
        piece = _Piece(work)
        thread = threading.Thread(target=piece.run, daemon=True, name="anonymize")
        try:
            thread.start()
        except RuntimeError:
            self._turns.release()
            raise RecognizerFailedError("thread") from None
        if not _finishes(piece, limit):
            piece.abandoned = True
            self._leave(piece)
            raise AnonymizerTimeoutError(piece.stage)
        self._turns.release()
        if piece.error is not None:
            raise piece.error
        assert piece.results
        return piece.results[0]

    def _leave(self, piece: _Piece[Result]) -> None:
        """Free the turn at once, and count the thread until it ends."""
        with self._lock:
            self._hanging += 1
        self._turns.release()

        def ended() -> None:
            piece.done.wait()
            with self._lock:
                self._hanging -= 1

        threading.Thread(target=ended, daemon=True, name="anonymize-left").start()


def _finishes(piece: _Piece[Any], limit_s: float) -> bool:
    """Wait until the work is done; False when it has used its time.

    What counts is the processor time of the work's own thread, so that other load is no fault of the text; work that
    neither ends nor computes is given up after a few times the limit.
    """
    started_s = time.monotonic()
    if piece.done.wait(limit_s):
        return True
    while time.monotonic() - started_s < _PATIENCE * limit_s and piece.used_s() < limit_s:
        if piece.done.wait(_STEP_S):
            return True
    return False


class _Piece(Generic[Result]):
    """One piece of work and what became of it."""

    def __init__(self, work: Callable[[Callable[[str], None]], Result]) -> None:
        self._work = work
        self.done = threading.Event()
        self.stage = "start"
        self.abandoned = False
        self.results: list[Result] = []
        self.error: AnonymizationError | None = None
        self._clock: int | None = None

    def used_s(self) -> float:
        """Processor time so far; infinite where the platform does not tell, so that the clock alone decides."""
        if self._clock is None:
            return float("inf")
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has just ended
            return 0.0

    def run(self) -> None:
        """The thread's body. The fail-closed gate: whatever happens, there is a result or a named error."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self.results.append(self._work(self._enter))
        except AnonymizationError as error:
            self.error = error
        except (
            Exception
        ) as error:  # a message of a library may quote the text, so only its type is told
            logger.warning("anonymizing failed at %s: %s", self.stage, type(error).__name__)
            self.error = RecognizerFailedError(self.stage)
        finally:
            self.done.set()

    def _enter(self, stage: str) -> None:
        """Told by the work at each step; work that nobody waits for any more stops here."""
        self.stage = stage
        if self.abandoned:
            raise AnonymizerTimeoutError(stage)
