"""The outbox's table: every statement, in a transaction that the caller holds. Not thread-safe; no thread, no sleeping.

All content is encrypted before it comes here (:class:`edge_agent.outbox.outbox.Outbox`). What stands in plain: ids (UUIDs), order,
times, sizes, kinds, states, and the last error's sentence, which never holds request text.
"""

from __future__ import annotations

import hmac
import sqlite3
from pathlib import Path
from typing import Any

from edge_agent.errors import (
    OutboxConflictError,
    OutboxCorruptError,
    OutboxError,
    OutboxFullError,
    OutboxKeyError,
)
from edge_agent.outbox.items import (
    WHEN_FULL,
    Kind,
    OutboxCounts,
    OutboxLimits,
    Row,
    State,
    WhenFull,
)
from edge_agent.outbox.sequence import Meta, Sequence

FORMAT_VERSION = 1  # PRAGMA user_version
APPLICATION_ID = 0x54444F42  # "TDOB", so that another program's database is not mistaken for ours
MAX_PAUSE_S = 3600.0  # of one item between two deliveries

_SCHEMA = """
CREATE TABLE outbox (
  id BLOB PRIMARY KEY NOT NULL,       -- 16 bytes of the request's wire id
  epoch INTEGER NOT NULL,             -- one more after a backup was restored
  seq INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  device TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('READY', 'LEASED', 'DONE', 'DEAD')),
  payload_enc BLOB,                   -- Anonymized, or outcomes
  content_mac BLOB NOT NULL,          -- keyed hash of the request, to tell a repetition from a reuse of its id
  vault_enc BLOB,                     -- never leaves the device
  answer_enc BLOB,
  size INTEGER NOT NULL,              -- bytes of the three
  created REAL NOT NULL,              -- Unix seconds, as all times here
  next_at REAL NOT NULL,
  lease_until REAL NOT NULL,
  attempts INTEGER NOT NULL,
  finished REAL,                      -- when it became DONE or DEAD
  last_error TEXT NOT NULL DEFAULT '',
  UNIQUE (epoch, seq)
);
CREATE INDEX outbox_queue ON outbox (state, kind, epoch, seq);
CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
"""


_COLUMNS = (
    "id, epoch, seq, kind, state, payload_enc, vault_enc, answer_enc, created, lease_until, attempts, "
    "finished, last_error"
)


class OutboxTable:
    """The statements on one open database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        tenant: str,
        device: str,
        limits: OutboxLimits,
    ) -> None:
        self._connection = connection
        self._path = path
        self._meta = Meta(connection)
        self._sequence = Sequence(self._meta, path.with_name(path.name + ".mark"))
        self._tenant = tenant
        self._device = device
        self._limits = limits
        self._stored_bytes: int | None = None  # None: count again
        self._data_version = -1

    def set_up(self, key_check: bytes) -> None:
        """Make the tables of a new database, or check that an existing one is ours, whole, and of our key.

        Raises:
            OutboxKeyError: It was written with another key.
            OutboxCorruptError: It is another program's, or of a newer version.
        """
        run = self._connection.execute
        version = int(run("PRAGMA user_version").fetchone()[0])
        application = int(run("PRAGMA application_id").fetchone()[0])
        if version == 0 and not run("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _SCHEMA.split(";"):
                run(statement)
            run(f"PRAGMA user_version = {FORMAT_VERSION}")
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            self._meta.write("key_check", key_check)
        elif application != APPLICATION_ID:
            raise OutboxCorruptError(f"{self._path}: is no outbox; move it away")
        elif version > FORMAT_VERSION:
            raise OutboxCorruptError(
                f"{self._path}: was written by a newer version; update the agent"
            )
        stored = self._meta.read("key_check")
        if stored is None or not hmac.compare_digest(stored, key_check):
            raise OutboxKeyError(
                f"{self._path}: was written with another key; restore the key file, or move the outbox away"
            )
        self._sequence.begin_epoch()

    def put(
        self,
        item_id: bytes,
        *,
        kind: Kind,
        payload: bytes,
        content_mac: bytes,
        vault: bytes,
        now: float,
    ) -> bool:
        """Store one item; False when it is there already.

        Raises:
            OutboxFullError: It does not fit, and its kind does not push out older ones.
            OutboxConflictError: The id stands for another content.
        """
        run = self._connection.execute
        known = run("SELECT content_mac FROM outbox WHERE id = ?", (item_id,)).fetchone()
        if known is not None:
            if not hmac.compare_digest(known[0], content_mac):
                raise OutboxConflictError(
                    "this request id is in the outbox already, for another request; give each request its own"
                )
            return False
        size = len(payload) + len(vault)
        self._make_room(kind, size, now)
        seq = self._sequence.next_seq()
        run(
            "INSERT INTO outbox (id, epoch, seq, tenant, device, kind, state, payload_enc, content_mac,"
            " vault_enc, size, created, next_at, lease_until, attempts)"
            " VALUES (?, ?, ?, ?, ?, ?, 'READY', ?, ?, ?, ?, ?, ?, 0, 0)",
            (
                item_id,
                self._sequence.epoch,
                seq,
                self._tenant,
                self._device,
                kind,
                payload,
                content_mac,
                vault,
                size,
                now,
                now,
            ),
        )
        self._add_bytes(size)
        return True

    def lease(self, kind: Kind, now: float) -> Row | None:
        """Take the oldest item of a kind that is due, for ``lease_s``."""
        run = self._connection.execute
        # A lease or pause that ends later than any could was made before the clock was set back.
        run(
            "UPDATE outbox SET state = 'READY' WHERE state = 'LEASED' AND kind = ?"
            " AND (lease_until <= ? OR lease_until > ?)",
            (kind, now, now + self._limits.lease_s),
        )
        found = run(
            f"SELECT {_COLUMNS} FROM outbox WHERE state = 'READY' AND kind = ?"  # noqa: S608  # our own constant
            " AND (next_at <= ? OR next_at > ?) ORDER BY epoch, seq LIMIT 1",
            (kind, now, now + MAX_PAUSE_S),
        ).fetchone()
        if found is None:
            return None
        row = _row(found)
        lease_until = now + self._limits.lease_s
        run(
            "UPDATE outbox SET state = 'LEASED', lease_until = ?, attempts = attempts + 1 WHERE id = ?",
            (lease_until, row.id),
        )
        return self.get(row.id)

    def bury_expired(self, now: float) -> int:
        """Give up what has waited for longer than ``max_age_s``; return how many."""
        cursor = self._connection.execute(
            "UPDATE outbox SET state = 'DEAD', finished = ?, last_error = 'it waited too long'"
            " WHERE state = 'READY' AND created < ?",
            (now, now - self._limits.max_age_s),
        )
        return cursor.rowcount

    def drop_uncollected(self, now: float) -> int:
        """Delete answers that nobody has collected within ``max_age_s``; return how many."""
        cursor = self._connection.execute(
            "DELETE FROM outbox WHERE state = 'DONE' AND finished < ?",
            (now - self._limits.max_age_s,),
        )
        self._stored_bytes = None
        return cursor.rowcount

    def done(self, item_id: bytes, answer: bytes | None, now: float) -> bool:
        """Store the answer and delete what was sent; without an answer delete all. False: nothing waited for it."""
        row = self.get(item_id)
        if row is None or row.state not in (State.READY, State.LEASED):
            return False
        if answer is None:
            return self.forget(item_id)
        size = len(answer) + len(row.vault)
        self._add_bytes(size - len(row.payload) - len(row.vault))
        self._connection.execute(
            "UPDATE outbox SET state = 'DONE', answer_enc = ?, payload_enc = NULL, size = ?, finished = ?,"
            " last_error = '' WHERE id = ?",
            (answer, size, now, item_id),
        )
        return True

    def fail(
        self, item_id: bytes, *, attempt: int, reason: str, pause_s: float, now: float, counts: bool
    ) -> bool:
        """Put a leased item back for a pause; False when another delivery has it by now."""
        cursor = self._connection.execute(
            "UPDATE outbox SET state = 'READY', next_at = ?, last_error = ?, attempts = attempts - ?"
            " WHERE id = ? AND state = 'LEASED' AND attempts = ?",
            (now + min(pause_s, MAX_PAUSE_S), reason, 0 if counts else 1, item_id, attempt),
        )
        return cursor.rowcount == 1

    def bury(self, item_id: bytes, *, attempt: int, reason: str, now: float) -> bool:
        """Give a leased item up; False when another delivery has it by now."""
        cursor = self._connection.execute(
            "UPDATE outbox SET state = 'DEAD', finished = ?, last_error = ?"
            " WHERE id = ? AND state = 'LEASED' AND attempts = ?",
            (now, reason, item_id, attempt),
        )
        return cursor.rowcount == 1

    def revive(self, item_id: bytes, now: float) -> bool:
        """Let a dead item wait again; False when it is not dead, or its content is gone."""
        cursor = self._connection.execute(
            "UPDATE outbox SET state = 'READY', finished = NULL, attempts = 0, next_at = ?, created = ?"
            " WHERE id = ? AND state = 'DEAD' AND payload_enc IS NOT NULL",
            (now, now, item_id),
        )
        return cursor.rowcount == 1

    def release_leases(self) -> int:
        """Put back every leased item: whoever held one is gone. Returns how many."""
        cursor = self._connection.execute(
            "UPDATE outbox SET state = 'READY', lease_until = 0 WHERE state = 'LEASED'"
        )
        return cursor.rowcount

    def get(self, item_id: bytes) -> Row | None:
        """Read one item."""
        found = self._connection.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE id = ?",  # noqa: S608  # our own constant
            (item_id,),
        ).fetchone()
        return None if found is None else _row(found)

    def rows(self, state: State) -> list[Row]:
        """Read all items of one state, in order."""
        found = self._connection.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE state = ? ORDER BY epoch, seq",  # noqa: S608  # our own constant
            (state,),
        )
        return [_row(values) for values in found]

    def forget(self, item_id: bytes) -> bool:
        """Delete one item, overwriting its content; False when there is none."""
        row = self.get(item_id)
        if row is None:
            return False
        self._connection.execute("DELETE FROM outbox WHERE id = ?", (item_id,))
        self._add_bytes(-len(row.payload) - len(row.vault) - len(row.answer))
        return True

    def counts(self, now: float) -> OutboxCounts:
        """Count the items."""
        run = self._connection.execute
        numbers = {
            (State(state), Kind(kind)): int(number)
            for state, kind, number in run(
                "SELECT state, kind, COUNT(*) FROM outbox GROUP BY state, kind"
            )
        }

        def total(*states: State, kinds: tuple[Kind, ...] = tuple(Kind)) -> int:
            return sum(numbers.get((state, kind), 0) for state in states for kind in kinds)

        oldest = run(
            "SELECT MIN(created) FROM outbox WHERE state IN ('READY', 'LEASED')"
        ).fetchone()[0]
        return OutboxCounts(
            waiting=total(State.READY, State.LEASED),
            waiting_by_kind={
                kind: total(State.READY, State.LEASED, kinds=(kind,)) for kind in Kind
            },
            done=total(State.DONE),
            dead=total(State.DEAD),
            stored_bytes=self._total_bytes(),
            oldest_waiting_s=0.0 if oldest is None else max(0.0, now - oldest),
        )

    def check_integrity(self) -> None:
        """Check the file, and what the statements here rely on.

        Raises:
            OutboxCorruptError: One of them does not hold.
        """
        run = self._connection.execute
        broken = run("PRAGMA integrity_check(1)").fetchone()[0]
        if broken != "ok":
            raise OutboxCorruptError(f"{self._path}: is damaged; restore it from a copy")
        checks = {
            "a waiting item has no content": "state IN ('READY', 'LEASED') AND payload_enc IS NULL",
            "a finished item has no answer": "state = 'DONE' AND answer_enc IS NULL",
            "a size is wrong": "size <> COALESCE(LENGTH(payload_enc), 0) + COALESCE(LENGTH(vault_enc), 0)"
            " + COALESCE(LENGTH(answer_enc), 0)",
            "a sequence number was not given out": "epoch = (SELECT CAST(value AS INTEGER) FROM meta"
            " WHERE name = 'epoch') AND seq >= (SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'next_seq')",
        }
        for complaint, condition in checks.items():
            if run(f"SELECT 1 FROM outbox WHERE {condition} LIMIT 1").fetchone():  # noqa: S608  # constants above
                raise OutboxCorruptError(f"{self._path}: {complaint}; restore it from a copy")

    def forget_caches(self) -> None:
        """Read everything again next time: a transaction was rolled back."""
        self._stored_bytes = None
        self._sequence.forget_caches()

    # --- limits

    def _make_room(self, kind: Kind, size: int, now: float) -> None:
        if size > self._limits.max_bytes:
            raise OutboxFullError("the request is larger than the whole outbox; raise max_bytes")
        while self._total_bytes() + size > self._limits.max_bytes:
            oldest = None
            if WHEN_FULL[kind] is WhenFull.BURY_OLDEST:
                oldest = self._connection.execute(
                    "SELECT id, size FROM outbox WHERE state = 'READY' AND kind = ? ORDER BY epoch, seq LIMIT 1",
                    (kind,),
                ).fetchone()
            if oldest is None:
                raise OutboxFullError(
                    "the outbox is full; connect the device, collect waiting answers, or raise max_bytes"
                )
            self._connection.execute(
                "UPDATE outbox SET state = 'DEAD', finished = ?, payload_enc = NULL, vault_enc = NULL, size = 0,"
                " last_error = 'pushed out by newer items' WHERE id = ?",
                (now, oldest[0]),
            )
            self._add_bytes(-int(oldest[1]))

    def _total_bytes(self) -> int:
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if self._stored_bytes is None or version != self._data_version:  # another process wrote
            found = self._connection.execute("SELECT COALESCE(SUM(size), 0) FROM outbox").fetchone()
            self._stored_bytes = int(found[0])
            self._data_version = version
        return self._stored_bytes

    def _add_bytes(self, size: int) -> None:
        self._stored_bytes = self._total_bytes() + size


def _row(values: tuple[Any, ...]) -> Row:
    fields = dict(zip(_COLUMNS.split(", "), values, strict=True))
    try:
        kind, state = Kind(fields["kind"]), State(fields["state"])
    except ValueError as error:
        raise OutboxError(
            "the outbox holds an item of an unknown kind; update the agent"
        ) from error
    return Row(
        id=fields["id"],
        epoch=fields["epoch"],
        seq=fields["seq"],
        kind=kind,
        state=state,
        payload=fields["payload_enc"] or b"",
        vault=fields["vault_enc"] or b"",
        answer=fields["answer_enc"] or b"",
        created=fields["created"],
        lease_until=fields["lease_until"],
        attempts=fields["attempts"],
        finished=fields["finished"],
        last_error=fields["last_error"],
    )
