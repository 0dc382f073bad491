"""Every change that synchronisation makes to the disk: one method, one step that a crash may come before or after.

Nothing else in this package writes, so a test that counts these calls can stop the device at each of them, and a test
that keeps their log can work out what a power cut would have left.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path


class Disk:
    """The real disk. What is not synced may be gone, or half there, after a power cut."""

    def write(self, path: Path, data: bytes, at: int = 0) -> None:
        """Write into a file at an offset; the file is made when missing."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file."""
        os.truncate(path, size_bytes)

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable."""
        _sync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable."""
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def make_folder(self, path: Path) -> None:
        """Make one folder, unless it is there."""
        path.mkdir(exist_ok=True)

    def link(self, source: Path, path: Path) -> None:
        """Give a file a second name."""
        os.link(source, path)

    def rename(self, source: Path, path: Path) -> None:
        """Move a file, link or folder; replaces what is there, except a folder that is not empty."""
        source.replace(path)

    def point(self, path: Path, target: str) -> None:
        """Make a symbolic link."""
        path.symlink_to(target)

    def unlink(self, path: Path) -> None:
        """Remove a file or link, if it is there."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder with all that is in it, if it is there."""
        shutil.rmtree(path, ignore_errors=True)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit a transaction of the journal; durable at once."""
        connection.commit()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
