"""The SQLite file of everything in operation that survives a restart: one transaction for each change."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from partition.errors import OversightError
from partition.oversight.oversight_rows import create_tables

_BUSY_TIMEOUT_S = 5.0


class OversightFile:
    """Any number of threads and processes; each call opens its own connection, so closing it is closing nothing."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            OversightError: The file cannot be opened, or is none of ours.
        """
        self._path = path
        with self.transaction() as connection:
            create_tables(connection)

    @contextlib.contextmanager
    def transaction(
        self, *, writes: bool = True, durable: bool = True
    ) -> Iterator[sqlite3.Connection]:
        """One transaction: whole or not at all, and nobody else's writes between its reads and its own.

        A power failure may undo one that is not durable, and nothing else.

        Raises:
            OversightError: The file cannot be used.
        """
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                connection.execute("pragma journal_mode = wal")
                connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
                connection.execute("begin immediate" if writes else "begin")
                yield connection
                connection.execute("commit")
            finally:
                connection.close()  # rolls back what was not committed
        except sqlite3.Error as error:
            raise OversightError(
                f"{self._path}: cannot be used ({type(error).__name__}); check its permissions and the free space, or move it away to start anew"
            ) from error
