"""What other threads want done on the engine's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud_service.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Errand:
    """Something to be done between two steps or two layers."""

    work: Callable[[], None]
    sequence: Callable[[], Sequence | None]  # that it changes; None: none that there is already

    @property
    def can_be_done(self) -> bool:
        """Whether it touches nothing that a step is computing."""
        sequence = self.sequence()
        return sequence is None or not sequence.is_running
