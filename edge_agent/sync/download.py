"""Fetches a blob part by part: each part is hashed before it is kept, and a cut link costs one part at most."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.cloud.sync_transport import SyncTransport
from edge_agent.sync.errors import NotReachableError, RefusedError
from edge_agent.sync.store import ReleaseStore
from partition.release.manifest import PART_BYTES, Blob
from protos.errors import NotFoundError, WireError

logger = logging.getLogger(__name__)

MAX_BAD_PARTS = 2  # of one part: then the attempt ends
MAX_FRUITLESS_CALLS = 4  # in a row; then the next cycle goes on
FIRST_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast bytes may come, and how slowly they may not. TUF itself does not defend against slow retrieval."""

    max_bytes_per_s: float = float("inf")
    min_bytes_per_s: float = 1024.0
    window_s: float = 60.0
    clock: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)


def fetch_blob(
    store: ReleaseStore,
    blob: Blob,
    transport: SyncTransport,
    pace: Pace,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Bring a blob into the store, going on where an earlier attempt stopped.

    Args:
        store: Where; its lock is held.
        blob: What.
        transport: From where.
        pace: How fast.
        progress: Told the number of bytes of each part kept.

    Raises:
        NotReachableError: The link failed several times without a part, or was too slow.
        RefusedError: The content is not what was signed.
    """
    if store.has_blob(blob.sha256):
        return
    at = store.good_bytes(blob)
    progress(at)
    fruitless, bad = 0, 0
    while at < blob.size_bytes:
        before = at
        try:
            at = _run_call(store, blob, transport, pace, at, progress)
        except NotFoundError as error:
            raise NotReachableError("the cloud does not have a file of the release yet") from error
        except WireError as error:
            logger.debug("blob call ended: %s", error.reason)
        except _BadPartError as error:
            at, bad = error.at, bad + 1 if error.at == before else 1
            if bad >= MAX_BAD_PARTS:
                raise RefusedError(
                    "a part of a file is not what was signed, twice", "bad_hash"
                ) from None
            continue
        at = store.good_bytes(blob)
        fruitless = 0 if at > before else fruitless + 1
        if fruitless >= MAX_FRUITLESS_CALLS:
            raise NotReachableError(
                "the link breaks before one part is through; the next cycle goes on"
            )
        if at < blob.size_bytes:
            pace.sleep(FIRST_PAUSE_S * 2**fruitless)
    store.finish_blob(blob)


class _BadPartError(Exception):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


def _run_call(
    store: ReleaseStore,
    blob: Blob,
    transport: SyncTransport,
    pace: Pace,
    at: int,
    progress: Callable[[int], None],
) -> int:
    """Read one stream until it ends; returns how much is kept."""
    buffer = bytearray()
    began = window_began = pace.clock()
    received = in_window = 0
    chunks = transport.get_blob(blob.sha256, at)
    try:
        for chunk in chunks:
            if chunk.offset != at + len(buffer) or chunk.offset + len(chunk.data) > blob.size_bytes:
                raise RefusedError("a file does not end where it was signed to", "endless_data")
            buffer += chunk.data
            received += len(chunk.data)
            in_window += len(chunk.data)
            while len(buffer) >= PART_BYTES or (buffer and at + len(buffer) == blob.size_bytes):
                part = bytes(buffer[:PART_BYTES])
                if hashlib.sha256(part).hexdigest() != blob.parts[at // PART_BYTES]:
                    raise _BadPartError(at)
                store.write_part(blob, part, at)
                progress(len(part))
                at += len(part)
                del buffer[: len(part)]
            now = pace.clock()
            if now - window_began >= pace.window_s:
                if in_window < pace.min_bytes_per_s * (now - window_began):
                    raise NotReachableError(
                        "the cloud sends too slowly; the next cycle goes on", "too_slow"
                    )
                window_began, in_window = now, 0
            if received / pace.max_bytes_per_s > now - began:
                pace.sleep(received / pace.max_bytes_per_s - (now - began))
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    return at
