"""Several continuations of one beginning, run at once: a tree of positions, each of which sees its own ancestors only.

Prompts of a batch share the fixed part of their task, and the labels that are scored share the prompt. Laid side by side behind
what they share they are one run of the model, without padding, and each gets what it would get alone: attention adds a bias of
minus infinity in all but name between positions of different branches, and every position is rotated by its depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# Far below any score, so that its exponential is 0 and not merely small; infinity would make 0 * inf of a row that sees nothing.
_HIDDEN: Final = np.float32(-1e30)


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """A tree of new positions behind ``base_len`` cached ones."""

    base_len: int
    depths: npt.NDArray[np.int64]  # (new,), behind the cached positions
    sees: npt.NDArray[np.bool_]  # (new, new), itself and its ancestors
    first_path: int  # leading positions each of which follows the one before: a plain continuation

    @classmethod
    def of(cls, parents: Sequence[int], *, base_len: int) -> Branches:
        """Lay out a tree.

        Args:
            parents: Which new position each follows; -1: the last cached one. A position comes after its parent.
            base_len: Cached positions, which all of them see.

        Raises:
            ValueError: A parent does not come before its child.
        """
        count = len(parents)
        if any(not -1 <= parent < at for at, parent in enumerate(parents)):
            raise ValueError("a position of a tree follows a position before it, or -1")
        starts = [at for at in range(count) if parents[at] != at - 1 or at == 0]
        depths = np.zeros(count, np.int64)
        sees = np.zeros((count, count), np.bool_)
        # Position by position would take as long as a layer of the model: a run of positions that follow each other is done at once.
        for start, end in zip(starts, [*starts[1:], count], strict=True):
            parent = parents[start]
            sees[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
            if parent >= 0:
                sees[start:end, :start] = sees[parent, :start]
            depths[start:end] = np.arange(end - start) + (depths[parent] + 1 if parent >= 0 else 0)
        return cls(base_len, depths, sees, starts[1] if len(starts) > 1 else count)

    def positions(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Where new positions ``[start, end)`` stand in their own path, ``(1, end - start)``."""
        return (self.base_len + self.depths[start:end])[None]

    def bias(self, start: int, end: int) -> npt.NDArray[np.float32]:
        """What attention adds for new positions ``[start, end)``, ``(1, 1, end - start, base_len + end)``."""
        bias = np.zeros((1, 1, end - start, self.base_len + end), np.float32)
        bias[0, 0, :, self.base_len :][~self.sees[start:end, :end]] = _HIDDEN
        return bias
