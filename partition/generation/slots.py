"""The sessions of a stage, and which ids each holds: conversations that are kept, and answers that are being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from partition.stages.stage import BranchingStage

WORTH_SHARING_TOKENS: Final = (
    16  # a shorter common beginning does not cost another conversation its cache
)


class Slots:
    """So many sessions that stay cached, and so many that are held by answers. Not thread-safe."""

    def __init__(self, stage: BranchingStage, *, num_kept: int, max_held: int) -> None:
        self._stage = stage
        self._num_kept = num_kept
        # Least recently used first: the ids whose keys and values each session holds. One of those kept may be held, but one stays
        # free for a prompt.
        count = max(num_kept, 2) + max_held - 1
        self._ids: dict[str, list[int]] = {f"slot-{index}": [] for index in range(count)}
        self._held: set[str] = set()

    def ids(self, session: str) -> list[int]:
        """The ids a session holds; whoever runs some adds them."""
        return self._ids[session]

    def best(self, ids: Sequence[int]) -> tuple[str, int]:
        """Which session to continue for a prompt, and how many of its positions stand."""
        best = self._vacant()
        longest = common(self._ids[best], ids)
        for session, known in self._ids.items():
            shared = common(known, ids)
            if shared >= WORTH_SHARING_TOKENS and shared > longest:
                best, longest = session, shared
        # The last token is always run: its logits are what is asked for.
        return best, min(longest, len(ids) - 1)

    def take(self, session: str, length: int) -> str:
        """Return a session with the first positions of one, and no others: that one, or a copy if an answer holds it."""
        if session in self._held:
            copy = self._vacant()
            self._stage.fork(session, copy, length)
            self._ids[copy] = self._ids[session][:length]
            session = copy
        known = self._ids.pop(session)
        self._ids[session] = known  # the most recently used one
        self.rewind(session, length)
        return session

    def rewind(self, session: str, length: int) -> None:
        """Keep the first positions of a session only."""
        del self._ids[session][length:]
        self._stage.rewind(session, length)

    def hold(self, session: str) -> None:
        """Keep a session for one answer, until it is released."""
        self._held.add(session)

    def release(self, session: str) -> None:
        """Let an answer's session go: it stays cached, and another that was kept longer may not."""
        self._held.discard(session)
        kept = self._free_and_filled()
        for oldest in kept[: max(0, len(kept) - self._num_kept)]:
            self._ids[oldest].clear()
            self._stage.forget(oldest)

    def _vacant(self) -> str:
        """A session that no answer holds: an empty one if more may be filled, else the least recently used."""
        filled = self._free_and_filled()
        if len(filled) < self._num_kept:
            for session, known in self._ids.items():
                if not known and session not in self._held:
                    return session
        return filled[0]

    def _free_and_filled(self) -> list[str]:
        return [one for one, known in self._ids.items() if known and one not in self._held]


def common(some: Sequence[int], others: Sequence[int]) -> int:
    """How many ids both begin with."""
    length = min(len(some), len(others))
    differences = np.flatnonzero(np.asarray(some[:length]) != np.asarray(others[:length]))
    return int(differences[0]) if len(differences) else length
