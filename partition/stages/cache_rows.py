"""Keys and values of several sessions as rows of one buffer, so that one position of each is one run of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from partition.stages.kv_cache import Floats, KVCache, bound, cache_names
from partition.stages.stage_range import StageRange
from partition.weights.spec import ModelSpec

_STEP_TOKENS: Final = 64  # positions by which rows grow, at least
_GROWTH: Final = 1.25


class CacheRows:
    """Buffers of ``(rows, kv_heads, capacity, head_dim)`` for each layer; one owner, not thread-safe.

    A session's keys and values are in a cache of its own or in a row here, never in both: its own is read by several
    positions at once, a row by one position beside those of other rows.
    """

    def __init__(self, spec: ModelSpec, stage: StageRange, *, max_tokens: int) -> None:
        self._spec = spec
        self._stage = stage
        self._max_tokens = max_tokens
        self._sessions: list[str] = []  # by row
        self.lengths: dict[str, int] = {}  # positions of each session
        self._arrays: dict[str, Floats] = {}
        self._capacity = 0
        self.binding: Any = None  # of as many rows as there are sessions

    def seat(
        self,
        sessions: Sequence[str],
        caches: dict[str, KVCache],
        session: Any,
        outputs: Sequence[str],
    ) -> npt.NDArray[np.int64]:
        """Have exactly these sessions in the rows, with room for a position more of each.

        Args:
            sessions: Which; each in the rows or in ``caches``.
            caches: Of sessions that have one of their own: who comes is taken out, who goes is put back.
            session: The ONNX Runtime session that reads and writes the rows.
            outputs: As for :meth:`partition.stages.kv_cache.KVCache.reserve`.

        Returns:
            The row of each.
        """
        for other in [one for one in self._sessions if one not in sessions]:
            caches[other] = self.leave(other)
        newcomers = [one for one in sessions if one not in self.lengths]
        lengths = [self.lengths.get(one) or caches[one].length for one in sessions]
        self._make_room(len(sessions), 1 + max(lengths))
        for newcomer in newcomers:
            self._admit(newcomer, caches.pop(newcomer))
        if self.binding is None:
            num_rows = len(self._sessions)
            self.binding = bound(
                session, outputs, {name: array[:num_rows] for name, array in self._arrays.items()}
            )
        return np.array([self._sessions.index(one) for one in sessions], np.int64)

    def leave(self, session: str) -> KVCache:
        """Give a session a cache of its own; its row is free."""
        row, length = self._sessions.index(session), self.lengths[session]
        cache = KVCache(self._spec, self._stage, max_tokens=self._max_tokens)
        cache.fill(lambda name: self._arrays[name][row], length)
        self.drop(session)
        return cache

    def part(self, session: str, name: str) -> Floats:
        """One buffer of a session, ``(kv_heads, capacity, head_dim)``."""
        part: Floats = self._arrays[name][self._sessions.index(session)]
        return part

    def drop(self, session: str) -> None:
        """Forget a session; the last row takes its place."""
        row, last = self._sessions.index(session), len(self._sessions) - 1
        del self.lengths[session]
        moved = self._sessions.pop()
        if row != last:
            self._sessions[row] = moved
            length = self.lengths[moved]
            for array in self._arrays.values():
                array[row, :, :length] = array[last, :, :length]
        self.binding = None
        if not self._sessions:
            self._arrays.clear()
            self._capacity = 0

    def clear(self) -> None:
        """Forget all."""
        for session in tuple(self._sessions):
            self.drop(session)

    def _admit(self, session: str, cache: KVCache) -> None:
        row, length = len(self._sessions), cache.length
        cache.binding = None
        for name, array in self._arrays.items():
            # Each is freed as soon as it is copied.
            array[row, :, :length] = cache.arrays.pop(name)[0, :, :length]
        self._sessions.append(session)
        self.lengths[session] = length
        self.binding = None

    def _make_room(self, num_rows: int, num_tokens: int) -> None:
        allocated = len(next(iter(self._arrays.values()))) if self._arrays else 0
        is_wasteful = allocated > 2 * num_rows
        if num_rows <= allocated and num_tokens <= self._capacity and not is_wasteful:
            return
        capacity = self._capacity
        if num_tokens > capacity:
            capacity = max(num_tokens + _STEP_TOKENS, int(capacity * _GROWTH))
            capacity = min(-(-capacity // _STEP_TOKENS) * _STEP_TOKENS, self._max_tokens)
        rows = num_rows if is_wasteful else max(num_rows, allocated)
        shape = (rows, self._spec.num_kv_heads, capacity, self._spec.head_dim)
        self.binding = None  # holds on to the buffers
        for name in cache_names(self._stage):
            array = np.zeros(shape, np.float32)
            for row, session in enumerate(self._sessions):
                length = self.lengths[session]
                array[row, :, :length] = self._arrays[name][row, :, :length]
            self._arrays[name] = array
        self._capacity = capacity
