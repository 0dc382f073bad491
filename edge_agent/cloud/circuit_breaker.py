"""A circuit breaker: after some failures the cloud counts as unreachable at once, without waiting for it.

Closed: calls pass. Open: calls are refused until the pause is over. Half-open: one trial call passes; its outcome closes
the breaker again, or opens it for twice as long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """When the breaker opens, and for how long."""

    num_failures: int = 5  # in a row
    window_calls: int = 20
    failure_ratio: float = 0.5  # of a full window
    first_pause_s: float = 10.0
    max_pause_s: float = 300.0


class CircuitBreaker:
    """Counts outcomes and says whether a call may be tried. Thread-safe."""

    def __init__(
        self, limits: BreakerLimits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or BreakerLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._outcomes: deque[bool] = deque(maxlen=self._limits.window_calls)
        self._num_failures_in_row = 0
        self._pause_s = 0.0  # of the present opening; 0: closed
        self._open_until = 0.0
        self._trial_running = False

    @property
    def remaining_s(self) -> float:
        """How long calls are still refused, seconds; 0 when one may be tried. Takes no trial slot."""
        with self._lock:
            return self._remaining_s()

    def try_enter(self) -> bool:
        """Ask to make one call; a True must be followed by exactly one of the three ``record_...`` methods."""
        with self._lock:
            if self._remaining_s() > 0:
                return False
            if self._pause_s > 0:
                self._trial_running = True
            return True

    def record_success(self) -> None:
        """Tell that the cloud answered, were it with a refusal: it is there."""
        with self._lock:
            self._trial_running = False
            self._outcomes.append(True)
            self._num_failures_in_row = 0
            if self._pause_s > 0:
                self._pause_s = 0.0
                self._outcomes.clear()

    def record_failure(self) -> None:
        """Tell that the cloud did not answer, or answered nonsense."""
        with self._lock:
            was_trial, self._trial_running = self._trial_running, False
            self._outcomes.append(False)
            self._num_failures_in_row += 1
            if self._pause_s > 0:
                # Calls that began before the opening end later; only the trial says something new.
                if was_trial:
                    self._open(min(self._pause_s * 2, self._limits.max_pause_s))
            elif self._is_failing():
                self._open(self._limits.first_pause_s)

    def record_nothing(self) -> None:
        """Tell that the call was given up by its caller, which says nothing about the cloud."""
        with self._lock:
            self._trial_running = False

    def _remaining_s(self) -> float:
        if self._pause_s == 0:
            return 0.0
        if self._trial_running:
            return self._pause_s
        return max(0.0, self._open_until - self._clock())

    def _is_failing(self) -> bool:
        if self._num_failures_in_row >= self._limits.num_failures:
            return True
        if len(self._outcomes) < self._limits.window_calls:
            return False
        return self._outcomes.count(False) >= self._limits.failure_ratio * len(self._outcomes)

    def _open(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._open_until = self._clock() + pause_s
        self._outcomes.clear()
        self._num_failures_in_row = 0
