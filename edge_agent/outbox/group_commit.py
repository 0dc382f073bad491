"""One thread that writes to one database: calls that arrive while it waits for the disk share the next commit."""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_agent.errors import (
    OutboxBusyError,
    OutboxCorruptError,
    OutboxError,
    OutboxFullError,
)
from edge_agent.outbox.table import OutboxTable

MAX_COMMIT_JOBS = 512  # that share one commit
T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    run: Callable[[OutboxTable, float], object]
    result: Future[object]


class GroupCommit:
    """Jobs on the outbox's table, each on disk before its caller goes on. Thread-safe."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: OutboxTable,
        path: Path,
        clock: Callable[[], float],
    ) -> None:
        """Start the writer thread; :meth:`close` ends it and closes the connection."""
        self._connection = connection
        self._table = table
        self._path = path
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="tandem-outbox", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Finish what was begun and close the file. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._writer.join()

    def run(self, run: Callable[[OutboxTable, float], T]) -> T:
        """Have the writer run a job in a transaction, and wait until that is on disk."""
        result: Future[object] = Future()
        with self._closing:
            if self._closed:
                raise OutboxError("the outbox is closed; open a new agent")
            self._jobs.put(_Job(run, result))
        return result.result()  # type: ignore[return-value]  # what the job returned

    def _write(self) -> None:
        is_open = True
        while is_open:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == MAX_COMMIT_JOBS or self._jobs.empty():
                    break
                job = self._jobs.get()
            is_open = job is not None
            if jobs:
                self._commit(jobs)
        self._connection.close()

    def _commit(self, jobs: list[_Job]) -> None:
        """Run jobs in one transaction; each succeeds or fails by itself."""
        try:
            with translated(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
                outcomes = [(job, *self._attempt(job)) for job in jobs]
                self._connection.execute("COMMIT")
        except Exception as error:  # each waiting caller gets it
            self._roll_back()
            if len(jobs) > 1:  # one of them may be too large for the disk, the others not
                for job in jobs:
                    self._commit([job])
            else:
                jobs[0].result.set_exception(error)
            return
        for job, value, failure in outcomes:
            if failure is not None:
                job.result.set_exception(failure)
            else:
                job.result.set_result(value)

    def _attempt(self, job: _Job) -> tuple[object, Exception | None]:
        """Run one job so that its failure undoes nothing of the others in the transaction."""
        self._connection.execute("SAVEPOINT job")
        try:
            value = job.run(self._table, self._clock())
        except OutboxError as error:
            self._connection.execute("ROLLBACK TO job")
            self._table.forget_caches()
            self._connection.execute("RELEASE job")
            return None, error
        self._connection.execute("RELEASE job")
        return value, None

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._table.forget_caches()
        except sqlite3.Error:
            # Broken for good, or locked for now: the next transaction tells, and reads everything anew.
            return


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open the database as the outbox needs it: durable at every commit, deleted content overwritten, this user's alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    )  # before sqlite can choose a mode
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(
            "PRAGMA synchronous = FULL"
        )  # NORMAL may lose a commit at a power cut in WAL mode
        connection.execute("PRAGMA journal_mode = WAL")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise OutboxCorruptError(f"{path}: is damaged; restore it from a copy, or move it away")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Say in one sentence what SQLite and the system mean."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise OutboxBusyError(
                f"{path}: another process holds the outbox; try again, or end that process"
            ) from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise OutboxFullError(
                f"{path}: the disk is full or fails, nothing was stored; free some space"
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise OutboxCorruptError(
                f"{path}: is damaged or no outbox; restore it from a copy, or move it away"
            ) from error
        raise OutboxError(
            f"{path}: the outbox fails ({type(error).__name__}); check the file"
        ) from error
    except OSError as error:
        raise OutboxError(
            f"{path}: the outbox cannot be opened ({error.strerror}); correct `state_folder` or its mode"
        ) from error
