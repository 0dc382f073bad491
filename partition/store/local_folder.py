"""A model out of a local folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from partition.store.assembly import Assembly, files_below, read_chunks
from partition.store.catalog import ModelEntry
from partition.store.staging import MAX_FOLDER_FILES, SourceError, Staging, append_part


def copy_from_folder(entry: ModelEntry, folder: Path, staging: Staging) -> tuple[Path, str | None]:
    """Copy the file or folder of that name out of a local folder.

    Returns:
        The candidate, and its SHA-256 where copying told it.
    """
    origin = folder / entry.file
    if entry.is_folder:
        if not origin.is_dir():
            raise SourceError("no such folder in it")
        return _copy_tree(entry, origin, staging), None
    if not origin.is_file():
        raise SourceError("no such file in it")
    if origin.stat().st_size != entry.bytes:
        raise SourceError(f"the file has {origin.stat().st_size} bytes instead of {entry.bytes}")
    target = staging.folder / "local"
    assembly = Assembly(target, (), report=staging.report)
    append_part(assembly, "local", read_chunks(origin), entry)
    return target, assembly.sha256


def _copy_tree(entry: ModelEntry, origin: Path, staging: Staging) -> Path:
    target = staging.folder / "local"
    shutil.rmtree(target, ignore_errors=True)
    files = files_below(origin)
    size = sum(path.stat().st_size for path in files)
    if size != entry.bytes or len(files) > MAX_FOLDER_FILES:
        raise SourceError(f"{len(files)} files of {size} bytes instead of {entry.bytes} bytes")
    for path in files:
        copy = target / path.relative_to(origin)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("xb") as file:
            for chunk in read_chunks(path):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    return target
