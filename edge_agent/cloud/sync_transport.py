"""What the device asks the cloud for while it synchronises: the seam that the real client and the simulated cloud fill.

Nothing that comes through it is believed before it is verified. Errors are those of :mod:`protos.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BlobChunk:
    """Some bytes of a blob."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the device says about itself; never a word of any request."""

    channel: str
    report_seq: int
    release: str
    state: str  # a State of the journal
    release_counter: int = 0
    min_release_counter: int = 0
    previous_release: str = ""
    manifest_sha256: str = ""
    error_kind: str = ""  # one of sync.errors.KINDS
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    route_shares: tuple[tuple[str, float], ...] = ()
    free_disk_bytes: int = 0
    free_memory_bytes: int = 0
    hardware_class: str = ""


class SyncTransport(Protocol):
    """The cloud's sync service, as the device sees it. Blocking; used from one thread at a time."""

    def get_metadata(self, name: str) -> bytes:
        """Return a metadata file.

        Raises:
            NotFoundError: There is none of that name.
            WireError: Anything else.
        """
        ...

    def get_blob(self, digest: str, offset: int) -> Iterator[BlobChunk]:
        """Yield a blob from an offset on; closing the iterator ends the call.

        Raises:
            WireError: Also while iterating.
        """
        ...

    def watch_desired(self, channel: str, have_version: int) -> Iterator[int]:
        """Yield versions of the channel's document as they appear, 0 as a sign of life; a hint only.

        Raises:
            WireError: Also while iterating.
        """
        ...

    def report(self, request_id: str, reported: Reported) -> None:
        """Tell the cloud; idempotent by ``request_id``.

        Raises:
            WireError: It was not stored, or nobody knows.
        """
        ...
