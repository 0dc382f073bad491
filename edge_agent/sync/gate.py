"""The last question before a release may answer: does it do here what it did at the publisher's?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partition.release.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What golden prompts or canaries showed."""

    passed: bool
    reason: str = ""  # for the operator: which figure failed, by how much
    max_abs_logprob: float = 0.0
    label_match: float = 1.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    kind: str = "gate"  # one of sync.errors.KINDS, for one that did not pass


class Gate(Protocol):
    """Runs a release's golden prompts. A model that crashes must not take the caller along: run it elsewhere."""

    def check(self, folder: Path, manifest: Manifest, baseline_p95_ms: float) -> GateVerdict:
        """Judge the release in ``folder``.

        Args:
            folder: Its files.
            manifest: What its publisher promises.
            baseline_p95_ms: Of the running release on the same prompts; 0: unknown, latency is not judged.
        """
        ...

    def check_canaries(self, folder: Path) -> GateVerdict:
        """Judge whether every planted identifier is still masked with the tasks of the release in ``folder``."""
        ...
