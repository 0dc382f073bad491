"""What every source of a model has in common: where it puts a candidate, and how it fails.

Each leaves a candidate in the staging folder and returns its path, with its SHA-256 where writing told it; whether it
is the model, only that hash says. What goes wrong with one source is a :class:`SourceError`, and the next one is
tried; a full disk is an ``OSError`` and ends it all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from partition.store.assembly import Assembly
from partition.store.catalog import ModelEntry

MAX_FOLDER_FILES = 1000


class SourceError(Exception):
    """One source did not give the model; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Where one model is put together, and who is told how far it is."""

    folder: Path
    report: Callable[[int], None]

    @property
    def wheels(self) -> Path:
        """Wheels that are there as a whole."""
        return self.folder / "wheels"


def append_part(assembly: Assembly, label: str, chunks: Iterable[bytes], entry: ModelEntry) -> None:
    """Add a part that may not make the file longer than the model."""
    try:
        assembly.append(label, chunks, max_bytes=entry.bytes)
    except ValueError as error:
        raise SourceError(str(error)) from error


def is_about_room(error: OSError) -> bool:
    """Whether the disk is full, the quota used up or the file too large for its file system."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reason_of(error: BaseException) -> str:
    """Name a foreign error in one short line."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[0].split())[:160] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
