"""Files that are whole after a power cut: the content is synced before its name stands, and the name after."""

from __future__ import annotations

import os
from pathlib import Path

_OWNER_ONLY = 0o600


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file in one step that survives a power cut."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def create_private(path: Path, content: bytes) -> None:
    """Make a file that only its owner may read; its name is not synced, see :func:`sync_folder`.

    Raises:
        FileExistsError: There is one already, or a link of that name.
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
