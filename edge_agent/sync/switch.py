"""Changes what answers while it is being used: new requests get the new one, old ones finish on the old."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Held(Generic[T]):
    value: T
    num_users: int = 0
    dispose: Callable[[T], None] | None = None  # set once it is replaced


class Switch(Generic[T]):
    """Lends one value at a time to many users. Thread-safe; nobody ever waits for a switch."""

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._held = _Held(value)

    @property
    def current(self) -> T:
        """What the next user gets; for looking, not for holding on to."""
        return self._held.value

    @contextmanager
    def use(self) -> Iterator[T]:
        """Lend the current value until the end of the block."""
        with self._lock:
            held = self._held
            held.num_users += 1
        try:
            yield held.value
        finally:
            with self._lock:
                held.num_users -= 1
                dispose = held.dispose if held.num_users == 0 else None
            if dispose is not None:
                dispose(held.value)

    def replace(self, value: T, dispose: Callable[[T], None]) -> None:
        """Put another value in place, at once.

        Args:
            value: The new one, ready to be used.
            dispose: Called with the old one as soon as nobody uses it, in whichever thread that is.
        """
        with self._lock:
            old, self._held = self._held, _Held(value)
            old.dispose = dispose
            is_free = old.num_users == 0
        if is_free:
            dispose(old.value)
