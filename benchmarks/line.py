"""What a benchmark is given, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every benchmark takes."""

    quick: bool = False  # end within two minutes
    data: Path = Path("../shared/data")  # folder of data to measure with
    seconds: float | None = (
        None  # measure for so long, and go on there the next time; None: all, anew
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measured figure; ``ratio`` is over 1 when ours is better."""

    case: str  # begins with what is measured: "prefill-256 smollm2-135m"
    ours: float
    unit: str
    runs: int  # medians of so many
    peer: str | None = None  # name and version; None where the line has none
    theirs: float | None = None
    less_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours against theirs; None without a peer."""
        if self.theirs is None or not self.ours or not self.theirs:
            return None
        return self.theirs / self.ours if self.less_is_better else self.ours / self.theirs
