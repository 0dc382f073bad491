"""The device's outbox: durable enqueueing, one by one and in batches, and a lease with its answer.

The floor beside it is SQLite itself: the same bytes into one table, same durability (WAL, synchronous=FULL), no encryption,
no order, no thread.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.line import Line, Options
from edge_agent.cloud.cloud import WireIds
from edge_agent.keystore import KeyStore
from edge_agent.outbox.outbox import Kind, Outbox
from edge_agent.sealing import seal_bytes

PAYLOAD_BYTES, VAULT_BYTES = 2_000, 400  # of a radiology report
NUM_THREADS = 64
PEER = f"SQLite {sqlite3.sqlite_version}, bare"


@dataclass(frozen=True)
class _Bytes:
    """Something to keep."""

    plain: bytes

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        return seal_bytes(self.plain, key, aad)


_PAYLOAD, _VAULT = _Bytes(b"p" * PAYLOAD_BYTES), _Bytes(b"v" * VAULT_BYTES)


def run(options: Options) -> Iterator[Line]:
    """Measure rates, items a second."""
    runs = 3 if options.quick else 7
    number = 500 if options.quick else 2_000
    cases = {
        "enqueue, one by one": (_one_by_one, _bare_one_by_one),
        f"enqueue, {NUM_THREADS} threads at once": (_together, _bare_batch),
        "lease and answer": (_deliver, None),
    }
    for case, (ours, theirs) in cases.items():
        own, peer = [], []
        for _ in range(runs):  # in turn
            own.append(_rate(ours, number))
            if theirs is not None:
                peer.append(_rate(theirs, number))
        yield Line(
            case=f"{case}, {PAYLOAD_BYTES + VAULT_BYTES} bytes",
            ours=statistics.median(own),
            theirs=statistics.median(peer) if peer else None,
            peer=PEER if peer else None,
            unit="items/s",
            runs=runs,
        )


def _rate(work: Callable[[Path, int], float], number: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return number / work(Path(folder), number)


def _open(folder: Path) -> Outbox:
    keys = KeyStore.open(folder / "device.key")
    return Outbox(folder / "outbox.db", keys=keys, wire_ids=WireIds(keys.derive("wire-ids")))


def _put(outbox: Outbox, name: str) -> None:
    outbox.put(name, kind=Kind.GENERATE, payload=_PAYLOAD, content=name.encode(), vault=_VAULT)


def _one_by_one(folder: Path, number: int) -> float:
    with _open(folder) as outbox:
        started = time.perf_counter()
        for index in range(number):
            _put(outbox, f"r-{index}")
        return time.perf_counter() - started


def _together(folder: Path, number: int) -> float:
    with _open(folder) as outbox, ThreadPoolExecutor(NUM_THREADS) as pool:
        started = time.perf_counter()
        for done in [pool.submit(_put, outbox, f"r-{index}") for index in range(number)]:
            done.result()
        return time.perf_counter() - started


def _deliver(folder: Path, number: int) -> float:
    with _open(folder) as outbox:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(lambda index: _put(outbox, f"r-{index}"), range(number)))
        started = time.perf_counter()
        while (leased := outbox.lease(Kind.GENERATE)) is not None:
            outbox.done(leased, _VAULT)
        return time.perf_counter() - started


def _bare(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE items (id TEXT PRIMARY KEY, payload BLOB, vault BLOB)")
    return connection


def _bare_one_by_one(folder: Path, number: int) -> float:
    connection = _bare(folder)
    started = time.perf_counter()
    for index in range(number):
        connection.execute(
            "INSERT INTO items VALUES (?, ?, ?)", (f"r-{index}", _PAYLOAD.plain, _VAULT.plain)
        )
    elapsed = time.perf_counter() - started
    connection.close()
    return elapsed


def _bare_batch(folder: Path, number: int) -> float:
    connection = _bare(folder)
    started = time.perf_counter()
    for first in range(0, number, NUM_THREADS):
        connection.execute("BEGIN IMMEDIATE")
        for index in range(first, min(first + NUM_THREADS, number)):
            connection.execute(
                "INSERT INTO items VALUES (?, ?, ?)", (f"r-{index}", _PAYLOAD.plain, _VAULT.plain)
            )
        connection.execute("COMMIT")
    elapsed = time.perf_counter() - started
    connection.close()
    return elapsed
