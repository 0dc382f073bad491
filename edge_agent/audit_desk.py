"""Audited answers that wait for a person: the anonymised request and the local answer, sealed on this device until judged."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.errors import OutboxError
from edge_agent.sealing import SealBrokenError, open_bytes, seal_bytes

_BUSY_TIMEOUT_S = 5.0
_SCHEMA = """
create table if not exists audit_case (
    name text primary key, task text not null, taken_s real not null, sealed blob not null
) strict
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCase:
    """One answer to judge."""

    name: str  # stands for the request, as in the oversight
    task: str
    taken_s: float  # UTC seconds since 1970
    text: str = field(repr=False)  # of the request, anonymised
    answer: str = field(repr=False)  # of the device, surrogates not restored


class AuditDesk:
    """Owner of one SQLite file. Thread-safe: each call opens its own connection."""

    def __init__(self, path: Path, *, key: bytes) -> None:
        """Open or create the file, readable by its owner only.

        Args:
            path: Of the file.
            key: 32 bytes.

        Raises:
            OutboxError: It cannot be opened.
        """
        self._path, self._key = path, key
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise OutboxError(
                f"{path}: cannot be opened ({type(error).__name__}); check the folder"
            ) from error
        with self._connection() as connection:
            connection.execute(_SCHEMA)

    def put(self, case: AuditCase) -> None:
        """Keep a case until :meth:`forget`; a second one of the same name changes nothing.

        Raises:
            OutboxError: It is not stored.
        """
        plain = json.dumps({"text": case.text, "answer": case.answer}).encode()
        sealed = seal_bytes(plain, self._key, _aad(case.name))
        with self._connection() as connection:
            connection.execute(
                "insert or ignore into audit_case values (?, ?, ?, ?)",
                (case.name, case.task, case.taken_s, sealed),
            )

    def cases(self, waiting: Collection[str]) -> tuple[AuditCase, ...]:
        """What waits, oldest first; cases that wait no longer (judged elsewhere, or too late) are deleted.

        Raises:
            OutboxError: The file cannot be used, or is damaged.
        """
        with self._connection() as connection:
            rows = connection.execute(
                "select name, task, taken_s, sealed from audit_case order by taken_s, name"
            ).fetchall()
            gone = [(row[0],) for row in rows if row[0] not in waiting]
            connection.executemany("delete from audit_case where name = ?", gone)
        return tuple(self._opened(*row) for row in rows if row[0] in waiting)

    def forget(self, name: str) -> None:
        """Delete a case.

        Raises:
            OutboxError: The file cannot be used.
        """
        with self._connection() as connection:
            connection.execute("delete from audit_case where name = ?", (name,))

    def _opened(self, name: str, task: str, taken_s: float, sealed: bytes) -> AuditCase:
        try:
            plain = json.loads(open_bytes(sealed, self._key, _aad(name)))
        except (SealBrokenError, ValueError) as error:
            raise OutboxError(
                f"{self._path}: a case cannot be opened; move the file away to start anew"
            ) from error
        return AuditCase(
            name=name,
            task=task,
            taken_s=taken_s,
            text=plain["text"],
            answer=plain["answer"],
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                connection.execute("pragma secure_delete = on")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise OutboxError(
                f"{self._path}: cannot be used ({type(error).__name__}); check the free space, or move it away to start anew"
            ) from error


def _aad(name: str) -> bytes:
    return b"audit-case\0" + name.encode()
