"""What every stage offers, on the device and in the cloud: extend a session, take positions back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageOutput:
    """What one call computed; the arrays belong to the caller."""

    hidden: Floats | None = None  # (new, hidden_size), of a stage without the head
    logits: Floats | None = None  # (rows, vocab_size), of a stage with the head
    features: Floats | None = None  # (rows, hidden_size), the residual stream before the last norm


class Stage(Protocol):
    """Layers ``[start, end)`` of one model with their KV caches. Not thread-safe."""

    def extend(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        """Append positions to one KV cache and run them.

        Args:
            session: Whose cache; an unknown one starts empty.
            inputs: Token ids ``(new,) int32`` for a first stage, else hidden states ``(new, hidden_size) float32``.
            base_len: Positions the caller believes are cached. Of more, the rest is forgotten first, which makes a
                repeated call harmless.
            rows: Which of the new positions to put through the head; None: the last. Of no use without a head.

        Raises:
            NeedPrefillError: Fewer than ``base_len`` positions are cached; send the prompt again.
            ContextLengthError: The positions would not fit into the context.
        """

    def rewind(self, session: str, length: int) -> None:
        """Forget all but the first ``length`` positions.

        Raises:
            NeedPrefillError: There are fewer.
        """

    def length(self, session: str) -> int:
        """Positions cached for a session; 0 for an unknown one."""

    def forget(self, session: str) -> None:
        """Free a session's cache; an unknown one is no error."""

    def close(self) -> None:
        """Free all memory and threads; the stage is of no further use."""


class BranchingStage(Stage, Protocol):
    """A stage that also runs several continuations of a session at once, and a position of several sessions: batches without padding."""

    @property
    def max_branched_tokens(self) -> int:
        """Cached and new positions of one call of :meth:`extend_branches`."""

    def extend_branches(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        parents: Sequence[int],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        """Run a tree of positions behind what is cached; each gets what its path alone would get.

        What stays cached is the first path: the leading positions each of which follows the one before.

        Args:
            session: Whose cache.
            inputs: As for :meth:`extend`.
            base_len: As for :meth:`extend`; at least 1.
            parents: Which new position each follows, an index before its own; -1: the last cached one.
            rows: Which of the new positions to put through the head, ascending; None: the last.

        Raises:
            NeedPrefillError: Fewer than ``base_len`` positions are cached; send the prompt again.
            ContextLengthError: They are more than ``max_branched_tokens``.
        """

    def extend_each(
        self,
        sessions: Sequence[str],
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_lens: Sequence[int],
    ) -> StageOutput:
        """Append one position to each of several sessions in one run; each gets what :meth:`extend` would give it.

        Cheapest when asked again for the same sessions.

        Args:
            sessions: Whose caches; no one twice.
            inputs: One position of each: token ids ``(sessions,) int32`` or hidden states ``(sessions, hidden_size) float32``.
            base_lens: As for :meth:`extend`, of each; at least 1.

        Returns:
            One row for each session, in their order.

        Raises:
            NeedPrefillError: Fewer than its ``base_len`` positions are cached for one of them; nobody's were extended.
            ContextLengthError: A position would not fit into the context.
        """

    def fork(self, session: str, new: str, length: int) -> None:
        """Copy the first ``length`` positions of a session to another, which forgets what it held.

        Raises:
            NeedPrefillError: There are fewer.
        """
