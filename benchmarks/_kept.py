"""Measurements kept on disk, so that a long benchmark can be taken in slices, each on a machine that is otherwise idle."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

FOLDER = Path(platformdirs.user_cache_dir("tandem")) / "benchmarks" / "kept"


_ROOT = Path(__file__).parent.parent


# What VERIFY and SPLIT consist of, besides the engines on either side.
JOINT_MODES = ("partition/extend", "edge_agent/extend", "partition/generation/sampling.py")


def build_of(*places: str) -> str:
    """Digest of some packages and modules as they are now, 8 hexadecimal digits; what comments say counts too."""
    digest = hashlib.sha256()
    for place in places:
        found = _ROOT / place
        for path in sorted(found.glob("*.py")) if found.is_dir() else [found]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class Kept:
    """Values by name, in a file of JSON lines.

    Args:
        name: Of the benchmark and everything that its values depend on.
        seconds: Take new values for so long, beginning now; None: forget what is there and take all.
    """

    def __init__(self, name: str, seconds: float | None) -> None:
        self._path = FOLDER / f"{name}.jsonl"
        self._ends_at = None if seconds is None else time.monotonic() + seconds
        self._values: dict[str, Any] = {}
        if seconds is None:
            self._path.unlink(missing_ok=True)
        elif self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._values[row["name"]] = row["value"]

    @property
    def is_time_over(self) -> bool:
        """Whether this slice is at its end."""
        return self._ends_at is not None and time.monotonic() > self._ends_at

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """A value, measured now if it is not there; None when there is no time left for it."""
        if name not in self._values:
            if self.is_time_over:
                return None
            self._values[name] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "value": self._values[name]}) + "\n")
        return self._values[name]

    def number(self, offset: int) -> int:
        """A number that no earlier slice has had, for whatever must not happen twice."""
        return len(self._values) + offset
