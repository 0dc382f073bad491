"""A way to tell a running request, from another thread, that nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancellation(threading.Event):
    """An event that also calls back when it is set, so that a thread blocked in a call is woken. Never cleared."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks_lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Stop what runs: every registered callback is called once, in this thread."""
        with self._callbacks_lock:
            super().set()
            callbacks = tuple(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Have ``callback`` called when set inside the block; at once when that has happened already."""
        token = object()
        with self._callbacks_lock:
            is_late = self.is_set()
            if not is_late:
                self._callbacks[token] = callback
        if is_late:
            callback()
        try:
            yield
        finally:
            with self._callbacks_lock:
                self._callbacks.pop(token, None)
