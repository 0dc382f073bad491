"""Where the requests to one model meet: what waits at the same time is run together, and nobody waits for company.

One thread runs the model, and lives while there is work. A request that comes alone is begun at once; those that come
meanwhile are taken in at the next token: answers are written together, a token of each in one run, and a verdict is given
between two tokens. Each caller waits in a thread of its own, in which it also gets its text, so that a slow reader stops nobody
else. Nobody's answer depends on the company: verdicts are given one by one, since side by side their scores would.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from edge_agent.locked_stage import ModelClosedError

if TYPE_CHECKING:
    from partition.generation.choice import Choice
    from partition.generation.generation import Generator
    from partition.generation.prefill import Prefill
    from partition.generation.writing import Assignment, Generation, GivingUp, Writing

T = TypeVar("T")

_PIECES_AHEAD: Final = 64  # of text that a slow reader has not taken; then its answer waits
_READER_POLL_S: Final = 0.02


class AnswerDesk:
    """Runs one model for many callers. Thread-safe."""

    def __init__(self, generator: Generator, lock: threading.Lock, *, max_batch: int) -> None:
        """Open the desk; no thread is started before the first request.

        Args:
            generator: The model.
            lock: Held for each run, and by whoever else uses the stage.
            max_batch: How many answers may be written at once; at most what ``generator`` was made for.
        """
        self._generator = generator
        self._lock = lock
        self._max_batch = max_batch
        self._changed = threading.Condition()
        self._waiting: list[_Choosing | _Writing] = []  # guarded by _changed, like all below
        self._is_running = False
        self._is_closed = False
        self._writings: dict[_Writing, Writing] = {}  # of the desk's thread alone

    @property
    def num_waiting(self) -> int:
        """Requests that have come and are not begun."""
        with self._changed:
            return len(self._waiting)

    def choose(
        self,
        ids: Sequence[int],
        candidates: Sequence[Sequence[int]],
        *,
        cancel: GivingUp | None = None,
    ) -> Choice:
        """Read a prompt and score its possible answers.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: ``cancel`` was set.
            ModelClosedError: The model was closed.
        """
        self._generator.reader.check_length(ids)
        order = _Choosing(ids, candidates, cancel)
        self._enter(order)
        return order.wait(None)

    def write(self, assignment: Assignment) -> tuple[Prefill, Generation]:
        """Write an answer; its text is shown in this thread.

        Raises:
            ContextLengthError: Prompt and one token do not fit into the context.
            StoppedError: The ``cancel`` was set before the answer began.
            ModelClosedError: The model was closed.
        """
        self._generator.reader.check_length(assignment.ids)
        order = _Writing(assignment)
        self._enter(order)
        return order.wait(assignment.on_text)

    def close(self) -> None:
        """Refuse new requests and wait for the end of those under way."""
        with self._changed:
            self._is_closed = True
            while self._is_running:
                self._changed.wait()

    def _enter(self, order: _Choosing | _Writing) -> None:
        with self._changed:
            if self._is_closed:
                raise ModelClosedError("the device's model was exchanged meanwhile; ask again")
            self._waiting.append(order)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._serve, name="tandem-model", daemon=True).start()

    # --- in the desk's thread

    def _serve(self) -> None:
        try:
            self._run_all()
        except BaseException as error:  # nobody may wait for ever, whatever went wrong here
            with self._changed:
                for order in (*self._waiting, *self._writings):
                    order.fail(RuntimeError(f"the model failed: {type(error).__name__}"))
                self._waiting.clear()
                self._writings.clear()
                self._is_running = False
                self._changed.notify_all()
            raise

    def _run_all(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._writings:
                    self._is_running = False
                    self._changed.notify_all()
                    return
                for order in [one for one in self._waiting if one.is_set()]:
                    self._waiting.remove(order)
                    order.stop()
                choosing = [one for one in self._waiting if isinstance(one, _Choosing)]
                writing = [one for one in self._waiting if isinstance(one, _Writing)]
            if choosing:
                self._choose(choosing[0])
            # Those that write already are kept waiting by one prompt at most.
            room = 1 if self._writings else self._max_batch
            for order in writing[: min(room, self._max_batch - len(self._writings))]:
                self._begin(order)
            self._write_on()

    def _choose(self, order: _Choosing) -> None:
        self._leave(order)
        try:
            with self._lock:
                choice = self._generator.reader.choose(order.ids, order.candidates, cancel=order)
        except Exception as error:  # crosses to the caller's thread
            order.fail(error)
            return
        order.finish(choice)

    def _begin(self, order: _Writing) -> None:
        self._leave(order)
        try:
            with self._lock:
                self._writings[order] = self._generator.begin(order.assignment)
        except Exception as error:  # crosses to the caller's thread
            order.fail(error)

    def _write_on(self) -> None:
        ready = {
            order: writing
            for order, writing in self._writings.items()
            if self._is_closed or order.num_unread < _PIECES_AHEAD or order.is_set()
        }
        if not ready and self._writings:
            with self._changed:
                self._changed.wait(_READER_POLL_S)
            return
        try:
            with self._lock:
                self._generator.step(list(ready.values()))
        except Exception as error:  # crosses to the callers' threads
            for order in ready:
                order.fail(error)
                self._end(order)
            return
        for order, writing in ready.items():
            if writing.is_done:
                order.finish((writing.prefill, writing.result()))
                self._end(order)

    def _end(self, order: _Writing) -> None:
        writing = self._writings.pop(order)
        with self._lock:
            self._generator.end(writing)

    def _leave(self, order: _Choosing | _Writing) -> None:
        with self._changed:
            self._waiting.remove(order)


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Order(Generic[T]):
    """One caller's request, and the way back to it; equal only to itself."""

    def __init__(self, ids: Sequence[int], cancel: GivingUp | None) -> None:
        self.ids = ids
        self._cancel = cancel
        self._is_abandoned = False
        self._told: queue.SimpleQueue[str | _Failure | tuple[T]] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Whether the caller gave up."""
        return self._is_abandoned or (self._cancel is not None and self._cancel.is_set())

    @property
    def num_unread(self) -> int:
        """Pieces of text that the caller has not taken yet."""
        return self._told.qsize()

    def wait(self, on_text: Callable[[str], None] | None) -> T:
        """Show what comes in this thread, and return the end of it."""
        try:
            while True:
                told = self._told.get()
                if isinstance(told, _Failure):
                    raise told.error
                if isinstance(told, tuple):
                    return told[0]
                if on_text is not None:
                    on_text(told)
        finally:
            self._is_abandoned = True  # where on_text raised, nobody waits any more

    def show(self, piece: str) -> None:
        self._told.put(piece)

    def finish(self, result: T) -> None:
        self._told.put((result,))

    def fail(self, error: Exception) -> None:
        self._told.put(_Failure(error))

    def stop(self) -> None:
        from partition.generation.reading import StoppedError

        self.fail(StoppedError())


class _Choosing(_Order["Choice"]):
    def __init__(
        self,
        ids: Sequence[int],
        candidates: Sequence[Sequence[int]],
        cancel: GivingUp | None,
    ) -> None:
        super().__init__(ids, cancel)
        self.candidates = candidates


class _Writing(_Order["tuple[Prefill, Generation]"]):
    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment.ids, assignment.cancel)
        on_text = self.show if assignment.on_text is not None else None
        self.assignment = replace(assignment, on_text=on_text, cancel=self)
