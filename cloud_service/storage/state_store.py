"""The state database: one set of tables, SQLite by default and PostgreSQL for replicas, through SQLAlchemy.

Every table has the tenant in its key. Nothing here runs on the event loop: :meth:`StateStore.run` gives a function and a
transaction to the store's own threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.dialects import postgresql, sqlite

from cloud_service.config import StateConfig
from cloud_service.errors import StateStoreError
from protos.errors import UnavailableError

logger = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0  # how long a writer waits for another process, a backup for instance
POSTGRESQL_THREADS = 4
TABLES_LOCK = 0x74616E64656D  # of PostgreSQL: replicas that start together make the tables one after the other
_LABEL = sa.String(63)

METADATA = sa.MetaData()
TENANT_KEYS = sa.Table(
    "tenant_keys",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)
DEDUPE = sa.Table(
    "dedupe",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("method", sa.String(128), nullable=False),
    sa.Column("payload_sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("state", sa.String(5), nullable=False),  # doing | done
    sa.Column("owner", sa.String(36), nullable=False),  # the attempt that does it
    sa.Column("response", sa.LargeBinary),  # sealed
    sa.Column("created", sa.Float, nullable=False),  # Unix seconds
    sa.Column("lease_until", sa.Float, nullable=False),  # while doing; later, anyone may take over
    sa.Column("expires", sa.Float, nullable=False, index=True),
)
OUTCOMES = sa.Table(
    "outcomes",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),  # of the report
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task", sa.String(63), nullable=False),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),  # sealed
)
TENANTS = sa.Table(
    "tenants",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("service_class", _LABEL, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("concurrent_calls", sa.Integer, nullable=False),
    sa.Column("requests_per_s", sa.Float, nullable=False),
    sa.Column("tokens_per_minute", sa.Integer, nullable=False),
    sa.Column("daily_micro_usd", sa.BigInteger, nullable=False),
)
API_KEYS = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("key_id", sa.String(12), primary_key=True, index=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),  # the key itself is nowhere
    sa.Column("created", sa.Float, nullable=False),
)
USAGE_DAYS = sa.Table(
    "usage_days",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),  # UTC, ISO 8601
    sa.Column("micro_usd", sa.BigInteger, nullable=False),
)
DEVICES = sa.Table(
    "devices",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("active", sa.Boolean, nullable=False, index=True),
    sa.Column("serial", sa.String(40)),  # hexadecimal, of its certificate
    sa.Column("previous_serial", sa.String(40)),  # still good until it runs out
    sa.Column("expires", sa.Float),  # Unix seconds, of its certificate
    sa.Column("changed", sa.Float, nullable=False),
)
ENROLMENT_CODES = sa.Table(
    "enrolment_codes",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("code_id", sa.String(12), primary_key=True, index=True),
    sa.Column("device", _LABEL, nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),  # the code itself is nowhere
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("request_sha256", sa.LargeBinary(32)),  # what it was used for
    sa.Column("certificate", sa.Text),  # what came of it
)
SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("opening_sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("ids", sa.LargeBinary, nullable=False),  # sealed
)


class StateStore:
    """Owner of the database connections. Close it: pending transactions are finished first."""

    def __init__(
        self, url: str, *, exclusive: Path | None = None, threads: int | None = None
    ) -> None:
        """Open the database and make what is missing.

        Args:
            url: SQLAlchemy's form.
            exclusive: A lock file, where only one process may use this database; None where several may.
            threads: Of the pool; None: one for SQLite, which has one writer, a few for a server.

        Raises:
            StateStoreError: It cannot be opened, or another process has it.
        """
        self._lock = None if exclusive is None else FileLock(exclusive, timeout=0)
        try:
            if self._lock is not None:
                exclusive_path = Path(self._lock.lock_file)
                exclusive_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock.acquire()
            self._engine = _make_engine(url)
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TABLES_LOCK)))
                METADATA.create_all(connection)
        except Timeout as error:
            raise StateStoreError(
                f"{exclusive}: another cloud service uses this state; stop it or name another folder"
            ) from error
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            self._release()
            raise StateStoreError(
                f"the state database cannot be opened ({type(error).__name__}); check `state` in the configuration"
            ) from error
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        workers = threads or (1 if self.is_sqlite else POSTGRESQL_THREADS)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tandem-state")

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in one transaction, off the event loop; it is committed when ``work`` returns.

        A caller that is cancelled does not stop the transaction: it commits or fails as a whole.

        Raises:
            UnavailableError: The database is locked, full or gone; nothing was stored.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._threads, self.run_here, work))

    def run_here(self, work: Callable[[sa.Connection], T]) -> T:
        """Like :meth:`run`, in the calling thread; for commands and tests."""
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except sa.exc.SQLAlchemyError as error:
            # The exception's text holds SQL parameters, so only its kind is told.
            logger.warning("state database failed: %s", type(error).__name__)
            raise UnavailableError(
                "the cloud cannot store the request now; try again", retry_after_s=1.0
            ) from None

    def insert_once(self, table: sa.Table, values: dict[str, Any]) -> Any:
        """Make the statement that inserts a row unless its key is there."""
        return insert_once(self._engine.dialect.name, table, values)

    def close(self) -> None:
        """Finish what was given to :meth:`run`, then close; harmless when repeated."""
        self._threads.shutdown(wait=True)
        self._engine.dispose()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def insert_once(dialect: str, table: sa.Table, values: dict[str, Any]) -> Any:
    """Make the statement that inserts a row unless its key is there, in the words of a dialect."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    statement = insert(table).values(**values).on_conflict_do_nothing()
    # Whether there was a row is read from the count, which SQLAlchemy forgets of inserts unless asked.
    return statement.execution_options(preserve_rowcount=True)


def state_url(config: StateConfig) -> str:
    """SQLAlchemy's URL of the configured database."""
    if config.url is not None:
        return config.url.get_secret_value()
    return f"sqlite:///{config.directory / 'state.sqlite3'}"


@contextlib.contextmanager
def open_state(url: str | None, directory: Path) -> Iterator[StateStore]:
    """Open the database of a configuration: ``url``, or else SQLite in ``directory``, which no other process may use then."""
    if url is None:
        store = StateStore(
            f"sqlite:///{directory / 'state.sqlite3'}", exclusive=directory / "state.lock"
        )
    else:
        store = StateStore(url)
    try:
        yield store
    finally:
        store.close()


def _make_engine(url: str) -> sa.Engine:
    if not sa.make_url(url).drivername.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    # As SQLAlchemy's documentation advises for SQLite: the driver's own transaction handling is
    # switched off, so that a transaction begins where we say and takes the write lock at once.
    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: object) -> None:
        del record
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
