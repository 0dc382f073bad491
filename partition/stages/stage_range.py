"""Which layers a stage has, and in what it computes."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Precision(enum.StrEnum):
    """What the matrices are multiplied in."""

    FLOAT32 = "float32"  # the reference
    INT8 = "int8"  # weights one scale per output, activations one scale per position


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRange:
    """Layers ``[start, end)`` of a model; the last stage has the head."""

    start: int
    end: int
    num_layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.num_layers:
            raise ValueError(
                f"a stage needs 0 <= start < end <= {self.num_layers}, not [{self.start}, {self.end})"
            )

    @property
    def has_embedding(self) -> bool:
        """Whether it begins with token ids."""
        return self.start == 0

    @property
    def has_head(self) -> bool:
        """Whether it ends in logits."""
        return self.end == self.num_layers

    @property
    def count(self) -> int:
        """Number of layers."""
        return self.end - self.start
