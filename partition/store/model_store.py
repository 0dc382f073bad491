"""The model store: every model by its name, as a verified file or folder in the cache.

    <cache>/models/<sha256>/<file>            a model, put there in one step when it was whole
    <cache>/models/<sha256>/.verified.json    size and time of each file when its hash was last right
    <cache>/models/<sha256>.partial/          what a fetch has so far; kept, so that the next one goes on
    <cache>/models/<sha256>.lock              held by the one process that fetches

A model is hashed while it is written. Later calls compare size and modification time with the stamp, which costs
microseconds and needs no network; where they differ the model is hashed again. The stamp guards against accidents
(truncation, a half-restored backup), not against someone who may write to the cache: ``get(name, rehash=True)`` does.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from partition.errors import (
    ModelStoreError,
    NotFetchedError,
    UnknownModelError,
    WrongHashError,
)
from partition.progress_bar import ProgressBar
from partition.store.assembly import files_below, hash_file, hash_folder
from partition.store.catalog import CATALOG, HubFile, ModelEntry, Wheels, load_catalog
from partition.store.durable import sync_folder, write_durably
from partition.store.hub_download import download_from_hub
from partition.store.local_folder import copy_from_folder
from partition.store.staging import SourceError, Staging
from partition.store.wheel_carrier import assemble_from_wheels

__all__ = ["ModelEntry", "ModelStore"]

SPARE_BYTES = (
    64 << 20
)  # left free beside a model: the largest carrier's last part, journals, the file system itself
_STAMP = ".verified.json"
_Attempt = tuple[str, Callable[[], tuple[Path, str | None]]]


class ModelStore:
    """Models by name, fetched when they are missing. Threads and processes may share one cache.

    Args:
        cache_dir: Where models are kept; None: the user's cache folder.
        offline: True asks neither hub nor package index; local folders and what is cached remain.
        local_dirs: Folders that may hold the files, the folders or the carrier wheels; asked first.
        progress: None shows a bar when stderr is a terminal, True always, False never.
        catalog: The file that names the models.
        pip_arguments: Further arguments of ``pip download``, such as ``--index-url``.
        hub_endpoint: Another hub than huggingface.co.

    Raises:
        ModelStoreError: The catalog is wrong.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        offline: bool = False,
        *,
        local_dirs: tuple[Path, ...] = (),
        progress: bool | None = None,
        catalog: Path = CATALOG,
        pip_arguments: tuple[str, ...] = (),
        hub_endpoint: str | None = None,
    ) -> None:
        self._models = (cache_dir or user_cache_path("tandem")) / "models"
        self._offline = offline
        self._local_dirs = tuple(local_dirs)
        self._progress = progress
        self._entries = load_catalog(catalog)
        self._pip_arguments = pip_arguments
        self._hub_endpoint = hub_endpoint

    def list(self) -> tuple[ModelEntry, ...]:
        """All entries, in the order of the catalog."""
        return tuple(self._entries.values())

    def entry(self, name: str) -> ModelEntry:
        """The entry of that name.

        Raises:
            UnknownModelError: There is none; the message lists the names there are.
        """
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries)
            raise UnknownModelError(
                f"no model of that name in the catalog; it knows: {known}"
            ) from None

    def path(self, name: str) -> Path:
        """Where the model is, or will be."""
        entry = self.entry(name)
        return self._models / entry.sha256 / entry.file

    def has(self, name: str) -> bool:
        """Whether the model is in the cache and unchanged since it was verified."""
        return self._matches_stamp(self.entry(name))

    def get(self, name: str, *, rehash: bool = False) -> Path:
        """The model as a verified file or folder, fetched if it is missing.

        Args:
            name: As in the catalog.
            rehash: Read every byte again instead of trusting the stamp.

        Raises:
            UnknownModelError: There is no such model.
            NotFetchedError: Every source failed, or may not be asked; the message names each, and why.
            WrongHashError: As before, but one source gave other bytes than the model's.
            ModelStoreError: The cache cannot be written, or has too little room.
        """
        entry = self.entry(name)
        if not rehash and self._matches_stamp(entry):
            return self.path(name)
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            with FileLock(self._models / f"{entry.sha256}.lock"):
                # Another process may have fetched it while we waited.
                if (rehash or not self._matches_stamp(entry)) and not self._matches_hash(entry):
                    self._fetch(entry)
        except OSError as error:
            raise self._cache_error(entry, error) from error
        return self.path(name)

    def _fetch(self, entry: ModelEntry) -> None:
        """Try source after source; the lock is held."""
        staging_folder = self._models / f"{entry.sha256}.partial"
        staging_folder.mkdir(exist_ok=True)
        self._check_room(entry, staging_folder)
        failures: list[str] = []
        came_wrong = False
        with ProgressBar(entry.name, entry.bytes, enabled=self._progress) as bar:
            staging = Staging(folder=staging_folder, report=bar.update)
            for label, attempt in self._attempts(entry, staging):
                try:
                    candidate, sha256 = attempt()
                except SourceError as error:
                    failures.append(f"{label}: {error}")
                    continue
                if sha256 is None:
                    sha256 = _hash(entry, candidate)
                if sha256 == entry.sha256:
                    self._install(entry, candidate, staging_folder)
                    return
                came_wrong = True
                failures.append(f"{label}: its SHA-256 is {sha256}")
                _discard(candidate)
        tried = "; ".join(failures) or "there is no source in the catalog"
        kind = WrongHashError if came_wrong else NotFetchedError
        raise kind(
            f"{entry.name} could not be had ({tried}); connect this machine, or put {entry.file} "
            f"with SHA-256 {entry.sha256} into a local folder of models"
        )

    def _attempts(self, entry: ModelEntry, staging: Staging) -> Iterator[_Attempt]:
        for folder in self._local_dirs:
            yield f"local folder {folder}", partial(copy_from_folder, entry, folder, staging)
        for source in entry.sources:
            match source:
                case HubFile():
                    label = f"hub {source.repository}"
                    yield label, partial(self._from_hub, entry, source, staging)
                case Wheels():
                    yield source.label, partial(self._from_wheels, entry, source, staging)

    def _from_hub(
        self, entry: ModelEntry, source: HubFile, staging: Staging
    ) -> tuple[Path, str | None]:
        if self._offline:
            raise SourceError("not asked, because this machine is set to offline")
        return download_from_hub(entry, source, staging, endpoint=self._hub_endpoint)

    def _from_wheels(
        self, entry: ModelEntry, source: Wheels, staging: Staging
    ) -> tuple[Path, str | None]:
        return assemble_from_wheels(
            entry,
            source,
            staging,
            local_dirs=self._local_dirs,
            offline=self._offline,
            pip_arguments=self._pip_arguments,
        )

    def _install(self, entry: ModelEntry, candidate: Path, staging_folder: Path) -> None:
        """Put a verified candidate into its place in one step."""
        whole = staging_folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        candidate.rename(whole / entry.file)
        _sync(whole / entry.file)
        write_durably(whole / _STAMP, _stamp_of(whole / entry.file))
        final = self._models / entry.sha256
        if final.exists():  # it was there and damaged
            shutil.rmtree(final)
        whole.rename(final)
        sync_folder(self._models)
        shutil.rmtree(staging_folder, ignore_errors=True)

    def _matches_stamp(self, entry: ModelEntry) -> bool:
        folder = self._models / entry.sha256
        try:
            return (folder / _STAMP).read_bytes() == _stamp_of(folder / entry.file)
        except OSError:
            return False

    def _matches_hash(self, entry: ModelEntry) -> bool:
        """Hash what is there, and stamp it when it is right."""
        folder = self._models / entry.sha256
        path = folder / entry.file
        if not path.exists() or _hash(entry, path) != entry.sha256:
            return False
        write_durably(folder / _STAMP, _stamp_of(path))
        return True

    def _check_room(self, entry: ModelEntry, staging_folder: Path) -> None:
        have = sum(path.stat().st_size for path in files_below(staging_folder))
        # A part is never larger than the file, and both lie there for a moment.
        parts = max((len(s.parts) for s in entry.sources if isinstance(s, Wheels)), default=1)
        wanted = max(entry.bytes - have, 0) + entry.bytes // parts + SPARE_BYTES
        free = shutil.disk_usage(self._models).free
        if wanted > free:
            raise ModelStoreError(
                f"{entry.name} needs {wanted >> 20} MiB in {self._models}, where {free >> 20} MiB are free; "
                "make room, or choose another cache folder"
            )

    def _cache_error(self, entry: ModelEntry, error: OSError) -> ModelStoreError:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        return ModelStoreError(
            f"{entry.name} cannot be written to {self._models} ({name}); make room there and allow writing, "
            "then pull it again: what is there already is kept"
        )


def _hash(entry: ModelEntry, path: Path) -> str:
    return hash_folder(path) if entry.is_folder else hash_file(path)


def _stamp_of(path: Path) -> bytes:
    """Size and modification time of a file, or of every file of a folder, as they are now."""
    paths = files_below(path) if path.is_dir() else [path]
    stats = {p.relative_to(path.parent).as_posix(): p.stat() for p in paths}
    return json.dumps(
        {name: [s.st_size, s.st_mtime_ns] for name, s in sorted(stats.items())}
    ).encode()


def _sync(path: Path) -> None:
    """Make a file, or every folder of a tree whose files are synced, durable."""
    if path.is_dir():
        for folder in [path, *(child for child in path.rglob("*") if child.is_dir())]:
            sync_folder(folder)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(candidate: Path) -> None:
    if candidate.is_dir():
        shutil.rmtree(candidate)
    else:
        candidate.unlink()
        candidate.with_name(candidate.name + ".parts").unlink(missing_ok=True)
