"""A stage that two users share call by call: a drafter waits for the network between its calls, and others answer meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from partition.errors import PartitionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from partition.stages.onnx_stage import OnnxStage
    from partition.stages.stage import Floats, StageOutput


class ModelClosedError(PartitionError):
    """The model went away in the middle of a draft; the cloud still has the request as text."""


class LockedStage:
    """Implements :class:`partition.stages.stage.Stage`, each call under a lock. Use a session of your own name.

    Args:
        stage: What computes.
        lock: Held by whoever uses the stage.
        is_open: Asked under the lock: False once the owner has closed the stage, for a newer release say.
    """

    def __init__(
        self, stage: OnnxStage, lock: threading.Lock, *, is_open: Callable[[], bool]
    ) -> None:
        self._stage = stage
        self._lock = lock
        self._is_open = is_open

    @property
    def context_tokens(self) -> int:
        """Longest session, in positions."""
        return self._stage.context_tokens

    def extend(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        """See :class:`partition.stages.stage.Stage`.

        Raises:
            ModelClosedError: Its owner has closed it.
        """
        with self._lock:
            if not self._is_open():
                raise ModelClosedError("the device's model was exchanged meanwhile; ask again")
            return self._stage.extend(session, inputs, base_len=base_len, rows=rows)

    def rewind(self, session: str, length: int) -> None:
        """See :class:`partition.stages.stage.Stage`."""
        with self._lock:
            self._stage.rewind(session, length)

    def length(self, session: str) -> int:
        """See :class:`partition.stages.stage.Stage`."""
        with self._lock:
            return self._stage.length(session)

    def forget(self, session: str) -> None:
        """See :class:`partition.stages.stage.Stage`."""
        with self._lock:
            self._stage.forget(session)

    def close(self) -> None:
        """Nothing: the stage is its owner's to close."""
