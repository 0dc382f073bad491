"""The order of the outbox's items: epoch and sequence number, which never run backwards, not even after a backup is restored."""

from __future__ import annotations

import json
import secrets
import sqlite3
from pathlib import Path

from partition.store.durable import write_durably

SEQ_BLOCK = 256  # sequence numbers promised at a time in the mark file


class Meta:
    """The named values of the outbox's database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, name: str) -> bytes | None:
        """Read one value; None when it was never written."""
        found = self._connection.execute(
            "SELECT value FROM meta WHERE name = ?", (name,)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def write(self, name: str, value: bytes) -> None:
        """Write one value, in the transaction that the caller holds."""
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )


class Sequence:
    """Sequence numbers out of the database, with a mark file beside it that knows of every number promised."""

    def __init__(self, meta: Meta, mark_path: Path) -> None:
        self._meta = meta
        self._mark_path = mark_path
        self._reserved = 0  # sequence numbers below are promised in the mark file
        self.epoch = 0

    def forget_caches(self) -> None:
        """Read everything again next time: a transaction was rolled back."""
        self._reserved = 0
        self.epoch = int(self._meta.read("epoch") or b"0")

    def next_seq(self) -> int:
        """Give out the next number; inside the transaction that stores its item."""
        seq = int(self._meta.read("next_seq") or b"0")
        if seq >= self._reserved:
            self._reserve(seq)
        self._meta.write("next_seq", str(seq + 1).encode())
        return seq

    def begin_epoch(self) -> None:
        """Begin a new epoch when the mark file, which no backup of the database holds, knows of a later past.

        Restoring the mark file along with the database hides the restoration; the cloud's dedupe still stands.
        """
        epoch = int(self._meta.read("epoch") or b"0")
        next_seq = int(self._meta.read("next_seq") or b"0")
        opening = self._meta.read("opening") or b""
        mark = self._read_mark()
        if mark is not None:
            restored = mark["opening"] != opening.decode() or int(mark["reserved"]) > int(
                self._meta.read("reserved") or b"0"
            )
            epoch = max(epoch, int(mark["epoch"])) + restored
        self.epoch = epoch
        self._meta.write("epoch", str(epoch).encode())
        self._meta.write("next_seq", str(next_seq).encode())
        self._meta.write("opening", secrets.token_hex(8).encode())
        self._reserve(next_seq)

    def _reserve(self, seq: int) -> None:
        """Promise the next block of sequence numbers, in the mark file first: a promise too many does no harm."""
        self._reserved = seq + SEQ_BLOCK
        self._meta.write("reserved", str(self._reserved).encode())
        opening = (self._meta.read("opening") or b"").decode()
        mark = {"epoch": self.epoch, "reserved": self._reserved, "opening": opening}
        write_durably(self._mark_path, json.dumps(mark).encode("ascii"))

    def _read_mark(self) -> dict[str, str | int] | None:
        try:
            mark = json.loads(self._mark_path.read_text(encoding="ascii"))
            return {
                "epoch": int(mark["epoch"]),
                "reserved": int(mark["reserved"]),
                "opening": str(mark["opening"]),
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError):
            # An unreadable mark says as much as a later past: something went wrong, begin anew.
            return {"epoch": 0, "reserved": 0, "opening": "?"}
