"""The device's memory of its releases: which one runs, how far each has come, and what is too old to be believed.

SQLite, WAL, ``synchronous=FULL``: a committed row survives a power cut. The row ``running`` decides what answers; the link
``current`` only follows it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.records import (
    BOOTS_OF_A_TRIAL,
    Floor,
    ReleaseRecord,
    Running,
    State,
    check_move,
)

BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS running (
    one INTEGER PRIMARY KEY CHECK (one = 1), release TEXT, previous TEXT);
INSERT OR IGNORE INTO running VALUES (1, NULL, NULL);
CREATE TABLE IF NOT EXISTS releases (
    release TEXT PRIMARY KEY, counter INTEGER NOT NULL, manifest_sha256 TEXT NOT NULL, state TEXT NOT NULL,
    boots_left INTEGER NOT NULL, soak_s REAL NOT NULL, answers INTEGER NOT NULL, checks INTEGER NOT NULL,
    was_confirmed INTEGER NOT NULL, error_kind TEXT NOT NULL, retry_epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS floors (
    role TEXT, keys TEXT, version INTEGER NOT NULL, PRIMARY KEY (role, keys));
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value REAL NOT NULL);
CREATE TABLE IF NOT EXISTS reports (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL, document TEXT NOT NULL);
"""
_COLUMNS = (
    "release, counter, manifest_sha256, state, boots_left, soak_s, answers, checks, was_confirmed, error_kind, "
    "retry_epoch"
)


class Journal:
    """Owner of ``sync.db``. Used from one thread; several processes may have it open."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Open it, and make it when it is missing.

        Raises:
            SyncFolderError: It cannot be read or written.
        """
        self._disk = disk
        self._path = path
        with self._readable():
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(_SCHEMA)
                problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise sqlite3.DatabaseError("damaged")
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; an open transaction is undone."""
        self._connection.close()

    # Reading

    @property
    def running(self) -> Running:
        """What answers now."""
        with self._readable():
            row = self._connection.execute("SELECT release, previous FROM running").fetchone()
        return Running(*row)

    def record(self, release: str) -> ReleaseRecord | None:
        """Return what is known of a release."""
        return next((record for record in self.records() if record.release == release), None)

    def records(self) -> tuple[ReleaseRecord, ...]:
        """Return every release that this device has met, by counter."""
        with self._readable():
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM releases ORDER BY counter"  # noqa: S608 - a constant
            ).fetchall()
        return tuple(
            ReleaseRecord(
                release=row[0],
                counter=row[1],
                manifest_sha256=row[2],
                state=State(row[3]),
                boots_left=row[4],
                soak_s=row[5],
                answers=row[6],
                checks=row[7],
                was_confirmed=bool(row[8]),
                error_kind=row[9],
                retry_epoch=row[10],
            )
            for row in rows
        )

    def floors(self) -> dict[tuple[str, str], int]:
        """Return the highest version seen, by role and digest of its keys."""
        with self._readable():
            rows = self._connection.execute("SELECT role, keys, version FROM floors").fetchall()
        return {(role, keys): version for role, keys, version in rows}

    def number(self, name: str) -> float:
        """Return a number kept under a name, 0 when it was never set."""
        with self._readable():
            row = self._connection.execute(
                "SELECT value FROM numbers WHERE name = ?", (name,)
            ).fetchone()
        return 0.0 if row is None else float(row[0])

    # Writing

    def believe(self, floors: Iterable[Floor], *, min_release_counter: int, now: float) -> None:
        """Remember what a successful refresh showed; nothing here ever goes down."""
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO floors VALUES (?, ?, ?) ON CONFLICT (role, keys) "
                "DO UPDATE SET version = max(version, excluded.version)",
                [(floor.role, floor.keys, floor.version) for floor in floors],
            )
            self._raise("min_release_counter", min_release_counter)
            self._raise("max_seen", now)

    def next_number(self, name: str) -> int:
        """Count up, durably, and return the new number."""
        with self._transaction():
            value = self.number(name) + 1
            self._put_number(name, value)
        return int(value)

    def put_report(self, seq: int, request_id: str, document: str, *, most: int) -> None:
        """Keep a report until the cloud has it; of more than ``most``, the oldest go: each says all there is."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (seq, request_id, document)
            )
            self._connection.execute(
                "DELETE FROM reports WHERE seq <= (SELECT max(seq) FROM reports) - ?", (most,)
            )

    def reports(self) -> tuple[tuple[int, str, str], ...]:
        """Return what waits to be reported: number, request id, document; in order."""
        with self._readable():
            rows = self._connection.execute(
                "SELECT seq, request_id, document FROM reports ORDER BY seq"
            ).fetchall()
        return tuple(
            (int(seq), str(request_id), str(document)) for seq, request_id, document in rows
        )

    def drop_report(self, seq: int) -> None:
        """Forget a report that the cloud has."""
        with self._transaction():
            self._connection.execute("DELETE FROM reports WHERE seq = ?", (seq,))

    def begin(self, release: str, counter: int, manifest_sha256: str, retry_epoch: int) -> None:
        """Begin to fetch a release, for the first time or again."""
        before = self.record(release)
        with self._transaction():
            if before is not None:
                check_move(before, State.FETCHING)
            self._put(
                ReleaseRecord(
                    release=release,
                    counter=counter,
                    manifest_sha256=manifest_sha256,
                    state=State.FETCHING,
                    was_confirmed=before is not None
                    and before.was_confirmed
                    and before.manifest_sha256 == manifest_sha256,
                    retry_epoch=retry_epoch,
                )
            )

    def move(self, release: str, state: State, *, error_kind: str = "") -> None:
        """Move a release to the next state; for the states that change what runs, see the methods below."""
        record = self._existing(release)
        check_move(record, state)
        with self._transaction():
            self._connection.execute(
                "UPDATE releases SET state = ?, error_kind = ? WHERE release = ?",
                (state, error_kind, release),
            )

    def begin_trial(self, release: str) -> None:
        """Make a release the one that answers, until it is confirmed or goes back."""
        record = self._existing(release)
        check_move(record, State.TRIAL)
        with self._transaction():
            previous = self._goes_back_to(self.running)
            self._connection.execute(
                "UPDATE releases SET state = ?, boots_left = ?, soak_s = 0, answers = 0, checks = 0, error_kind = '' "
                "WHERE release = ?",
                (State.TRIAL, BOOTS_OF_A_TRIAL, release),
            )
            self._run(release, previous)

    def use_boot(self, release: str) -> int:
        """Take one start from a trial, before its model is loaded; returns how many are left."""
        with self._transaction():
            self._connection.execute(
                "UPDATE releases SET boots_left = boots_left - 1 WHERE release = ?", (release,)
            )
        return self._existing(release).boots_left

    def give_back_boots(self, release: str) -> None:
        """Count the starts of a trial anew, because a process that ran it ended in good order."""
        with self._transaction():
            self._connection.execute(
                "UPDATE releases SET boots_left = ? WHERE release = ? AND state = ?",
                (BOOTS_OF_A_TRIAL, release, State.TRIAL),
            )

    def soak(self, release: str, *, seconds: float, answers: int, checks: int) -> None:
        """Add to what a trial has shown."""
        with self._transaction():
            self._connection.execute(
                "UPDATE releases SET soak_s = soak_s + ?, answers = answers + ?, checks = checks + ? "
                "WHERE release = ?",
                (seconds, answers, checks, release),
            )

    def confirm(self, release: str) -> None:
        """End a trial well, and raise the floor in the same transaction."""
        record = self._existing(release)
        check_move(record, State.CONFIRMED)
        with self._transaction():
            self._connection.execute(
                "UPDATE releases SET state = ?, was_confirmed = 1 WHERE release = ?",
                (State.CONFIRMED, release),
            )
            least = self.number("min_release_counter")
            if record.counter >= least:
                self._raise("confirmed_min_release_counter", least)

    def roll_back(self, *, error_kind: str) -> Running:
        """Have the release before answer again, or the model that the device was made with."""
        with self._transaction():
            running = self.running
            if running.release is not None:
                check_move(self._existing(running.release), State.ROLLED_BACK)
                self._connection.execute(
                    "UPDATE releases SET state = ?, error_kind = ? WHERE release = ?",
                    (State.ROLLED_BACK, error_kind, running.release),
                )
            self._run(running.previous, None)
        return self.running

    def return_to(self, release: str | None, retry_epoch: int = 0) -> None:
        """Have a release answer that was confirmed here before (None: the one that the device was made with)."""
        if release is not None and not self._existing(release).was_confirmed:
            raise SyncFolderError(f"{release} was never confirmed here, so it needs a trial")
        with self._transaction():
            previous = self._goes_back_to(self.running)
            if release is not None:
                self._connection.execute(
                    "UPDATE releases SET state = ?, error_kind = '', retry_epoch = ? WHERE release = ?",
                    (State.CONFIRMED, retry_epoch, release),
                )
            self._run(release, previous if previous != release else None)

    def forget(self, release: str) -> None:
        """Drop a record whose files are gone and whose failure need not be remembered."""
        with self._transaction():
            self._connection.execute("DELETE FROM releases WHERE release = ?", (release,))

    def may_run(self, release: str, counter: int) -> bool:
        """Tell whether the floor allows a release.

        One that was confirmed here stays allowed until a release at or above the floor is confirmed: a bad fix still
        has a way back.
        """
        if counter >= self.number("min_release_counter"):
            return True
        record = self.record(release)
        return (
            record is not None
            and record.was_confirmed
            and counter >= self.number("confirmed_min_release_counter")
        )

    def check_integrity(self) -> None:
        """Assert what must hold in every committed state."""
        running, records = self.running, {record.release: record for record in self.records()}
        trials = [record for record in records.values() if record.state is State.TRIAL]
        assert len(trials) <= 1, "two trials at once"
        if running.release is not None:
            assert records[running.release].state in (State.TRIAL, State.CONFIRMED), "runs untested"
        for record in trials:
            assert record.release == running.release, "a trial that does not run"
            assert record.boots_left >= 0, "a trial with fewer than no starts"
        if running.previous is not None:
            assert records[running.previous].was_confirmed, "the way back was never confirmed"

    def _goes_back_to(self, running: Running) -> str | None:
        """Return the newest confirmed release: what runs, unless it is itself on trial."""
        record = self.record(running.release) if running.release is not None else None
        if record is not None and record.was_confirmed:
            return record.release
        return running.previous

    def _existing(self, release: str) -> ReleaseRecord:
        record = self.record(release)
        if record is None:
            raise SyncFolderError(f"{release} is not on this device; run `edge-agent sync`")
        return record

    def _run(self, release: str | None, previous: str | None) -> None:
        self._connection.execute(
            "UPDATE running SET release = ?, previous = ?", (release, previous)
        )
        # Whatever was on trial and does not run any more has lost its trial.
        self._connection.execute(
            "UPDATE releases SET state = ?, error_kind = 'operator' WHERE state = ? AND release IS NOT ?",
            (State.ROLLED_BACK, State.TRIAL, release),
        )

    def _put(self, record: ReleaseRecord) -> None:
        self._connection.execute(
            f"INSERT OR REPLACE INTO releases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                record.release,
                record.counter,
                record.manifest_sha256,
                record.state,
                record.boots_left,
                record.soak_s,
                record.answers,
                record.checks,
                int(record.was_confirmed),
                record.error_kind,
                record.retry_epoch,
            ),
        )

    def _raise(self, name: str, value: float) -> None:
        self._put_number(name, max(value, self.number(name)))

    def _put_number(self, name: str, value: float) -> None:
        self._connection.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._readable():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._disk.commit(self._connection)
            except BaseException:
                self._connection.rollback()
                raise

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise SyncFolderError(
                f"{self._path}: the journal cannot be used; the current release goes on, but nothing is installed "
                "until it is repaired or removed"
            ) from error
