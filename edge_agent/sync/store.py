"""The folder of releases: blobs by digest, releases of hard links to them, and the link ``current``.

    blobs/<hex>    staging/    releases/<release>/    trash/    current -> releases/<release>    tuf/    sync.db    lock

Every step is written so that the device may lose power before or after it. F1 to F4 and F7 are the syncs that make that
true; the commits F5, F6 and F8 are the journal's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import NoSpaceError, RefusedError, SyncFolderError
from partition.errors import DeltaError, ManifestError
from partition.release.delta import CODEC, apply_delta
from partition.release.manifest import PART_BYTES, Blob, FileDelta, Manifest, parse_manifest

MANIFEST = "manifest.json"
SYNC_EVERY_BYTES = 16 << 20  # what a power cut may cost of a download
RESERVE_RATIO = 1.1
_FOLDERS = ("blobs", "staging", "releases", "trash", "tuf")


class ReleaseStore:
    """Owner of the folder. Changes need :meth:`locked`; reading does not."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        """Name the folder; see :meth:`prepare`."""
        self.folder = folder
        self._disk = disk

    def prepare(self) -> None:
        """Make the folders, and find out whether the file system can do what is needed.

        Raises:
            SyncFolderError: It has no hard links, no symbolic links, or cannot sync a folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in _FOLDERS:
                self._disk.make_folder(self.folder / name)
            probe, other = self.folder / "staging" / "probe", self.folder / "staging" / "probe2"
            for path in (probe, other):
                self._disk.unlink(path)
            self._disk.write(probe, b"probe")
            self._disk.link(probe, other)
            self._disk.unlink(other)
            self._disk.point(other, "probe")
            for path in (probe, other):
                self._disk.unlink(path)
            self._disk.sync_folder(self.folder)
        except OSError as error:
            raise SyncFolderError(
                f"{self.folder}: this file system lacks hard links, links or folder sync ({error.strerror}); "
                "put the sync folder on a local Linux file system"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude every other updater, of this process or another.

        Raises:
            SyncFolderError: Another one is at work.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SyncFolderError(
                    f"{self.folder}: another update is running; wait for it to end"
                ) from error
            yield
        finally:
            os.close(descriptor)

    # Reading

    def blob(self, digest: str) -> Path:
        """Return where a blob lies, or will."""
        return self.folder / "blobs" / digest

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is whole and here: it gets its name only after it was hashed and synced."""
        return self.blob(digest).is_file()

    def release(self, name: str) -> Path:
        """Return where a release lies, or will."""
        return self.folder / "releases" / name

    def manifest(self, release: str) -> Manifest | None:
        """Read the manifest of a release that is here; None when there is none that can be read."""
        try:
            return parse_manifest((self.release(release) / MANIFEST).read_bytes())
        except (OSError, ManifestError):
            return None

    @property
    def current(self) -> str | None:
        """The release that the link names, if there is a link to a release."""
        try:
            target = (self.folder / "current").readlink()
        except OSError:
            return None
        return target.name if (self.folder / target).is_dir() else None

    def is_whole(self, release: str) -> bool:
        """Tell whether every file of a release is there with its length; hashing it all is :meth:`verify`."""
        manifest = self.manifest(release)
        if manifest is None:
            return False
        folder = self.release(release)
        return all(
            (folder / file.path).is_file()
            and (folder / file.path).stat().st_size == file.blob.size_bytes
            for file in manifest.files
        )

    def verify(self, release: str) -> bool:
        """Hash every file of a release."""
        manifest = self.manifest(release)
        return manifest is not None and all(
            _hash_of(self.release(release) / file.path) == file.blob.sha256
            for file in manifest.files
        )

    # Blobs

    def good_bytes(self, blob: Blob) -> int:
        """Return how much of a download that began earlier is good, and cut off the rest."""
        path = self._part(blob)
        if not path.exists():
            return 0
        good = 0
        with path.open("rb") as file:
            for digest in blob.parts:
                part = file.read(PART_BYTES)
                if hashlib.sha256(part).hexdigest() != digest:
                    break
                good += len(part)
        if path.stat().st_size != good:
            self._disk.truncate(path, good)
        return good

    def write_part(self, blob: Blob, data: bytes, at: int) -> None:
        """Add one part whose hash was checked."""
        path = self._part(blob)
        self._disk.write(path, data, at)
        if (at + len(data)) // SYNC_EVERY_BYTES > at // SYNC_EVERY_BYTES:
            self._disk.sync_file(path)

    def finish_blob(self, blob: Blob) -> None:
        """Hash a download whole and give it its name.

        Raises:
            RefusedError: It is not what the manifest names; it was deleted.
        """
        path = self._part(blob)
        if blob.size_bytes == 0:
            self._disk.write(path, b"")
        self._accept(path, blob, _hash_of(path))

    def apply(self, delta: FileDelta, blob: Blob) -> None:
        """Make a file out of the one that is here and a delta that is here, into a new file.

        Raises:
            RefusedError: The delta is damaged, or made something else; the caller fetches the whole file.
        """
        if delta.codec != CODEC:
            raise RefusedError("the delta is of a kind that this version cannot apply", "bad_hash")
        path = self.folder / "staging" / f"{blob.sha256}.new"
        self._disk.unlink(path)
        size = 0

        def write(data: bytes) -> None:
            nonlocal size
            if size + len(data) > blob.size_bytes:
                raise DeltaError("the delta makes more than the file it is for")
            self._disk.write(path, data, size)
            size += len(data)

        try:
            digest = apply_delta(self.blob(delta.base_sha256), self.blob(delta.blob.sha256), write)
        except DeltaError as error:
            self._disk.unlink(path)
            raise RefusedError(str(error), "bad_hash") from error
        if size == 0:
            self._disk.write(path, b"")
        self._accept(path, blob, digest)

    def adopt(self, blob: Blob, source: Path) -> None:
        """Copy a file that the device was made with, so that deltas can start from it.

        Raises:
            RefusedError: It is another file.
        """
        path = self.folder / "staging" / f"{blob.sha256}.new"
        self._disk.unlink(path)
        at = 0
        with source.open("rb") as file:
            while part := file.read(PART_BYTES):
                self._disk.write(path, part, at)
                at += len(part)
        self._accept(path, blob, _hash_of(path))

    def check_space(self, needed_bytes: int) -> None:
        """Refuse what would not fit.

        Raises:
            NoSpaceError: There is too little room.
        """
        free = shutil.disk_usage(self.folder).free
        if free < needed_bytes * RESERVE_RATIO:
            raise NoSpaceError(
                f"{self.folder}: the release needs {round(needed_bytes * RESERVE_RATIO / 1e6)} MB and "
                f"{free // 1_000_000} MB are free; free some space"
            )

    # Releases

    def assemble(self, manifest: Manifest, data: bytes) -> None:
        """Make the folder of a release out of blobs that are all here; ``data`` are the manifest's bytes."""
        done, temporary = self.release(manifest.release), self.release(f"{manifest.release}.tmp")
        self._disk.remove_folder(temporary)
        self._disk.make_folder(temporary)
        folders = {temporary}
        for file in manifest.files:
            path = temporary
            for name in file.path.split("/")[:-1]:
                path = path / name
                if path not in folders:
                    self._disk.make_folder(path)
                    folders.add(path)
            self._disk.link(self.blob(file.blob.sha256), temporary / file.path)
        self._disk.write(temporary / MANIFEST, data)
        self._disk.sync_file(temporary / MANIFEST)
        for folder in sorted(folders, reverse=True):
            self._disk.sync_folder(folder)  # F3
        self._discard(done)
        self._disk.rename(temporary, done)
        self._disk.sync_folder(done.parent)  # F4

    def point_to(self, release: str | None) -> None:
        """Have ``current`` name a release, atomically; None takes the link away."""
        link, temporary = self.folder / "current", self.folder / "current.tmp"
        if release is None:
            self._disk.unlink(link)
        else:
            self._disk.unlink(temporary)
            self._disk.point(temporary, f"releases/{release}")
            self._disk.rename(temporary, link)
        self._disk.sync_folder(self.folder)  # F7

    def drop_damaged(self, manifest: Manifest) -> None:
        """Remove the blobs of a release that are not what they were any more."""
        for file in manifest.files:
            if _hash_of(self.blob(file.blob.sha256)) != file.blob.sha256:
                self._disk.unlink(self.blob(file.blob.sha256))

    def tidy(self) -> None:
        """Remove what a crash left half done."""
        for path in self.folder.glob("releases/*.tmp"):
            self._disk.remove_folder(path)
        for path in self.folder.glob("trash/*"):
            self._disk.remove_folder(path)
        for path in self.folder.glob("staging/*.new"):
            self._disk.unlink(path)

    def collect(self, keep: frozenset[str], bases: frozenset[str], wanted: frozenset[str]) -> None:
        """Remove every release that is not kept, and every blob that nothing kept needs.

        Args:
            keep: Releases that stay.
            bases: Digests that announced deltas start from.
            wanted: Digests whose download goes on later.
        """
        for path in self.folder.glob("releases/*"):
            if path.name not in keep:
                self._discard(path)
        needed = set(bases)
        for release in keep:
            manifest = self.manifest(release)
            if manifest is not None:
                needed.update(file.blob.sha256 for file in manifest.files)
        for path in self.folder.glob("blobs/*"):
            if path.name not in needed and path.name not in wanted:
                self._disk.unlink(path)
        for path in self.folder.glob("staging/*.part"):
            if path.stem not in wanted:
                self._disk.unlink(path)

    def _discard(self, folder: Path) -> None:
        """Take a folder away in one step, so that no half of it is ever found under its name."""
        if not folder.exists():
            return
        trash = self.folder / "trash" / folder.name
        self._disk.remove_folder(trash)
        self._disk.rename(folder, trash)
        self._disk.sync_folder(folder.parent)
        self._disk.remove_folder(trash)

    def _accept(self, path: Path, blob: Blob, digest: str) -> None:
        if digest != blob.sha256:
            self._disk.unlink(path)
            raise RefusedError("a file is not the one that the manifest names", "bad_hash")
        self._disk.sync_file(path)  # F1
        self._disk.rename(path, self.blob(blob.sha256))
        self._disk.sync_folder(self.folder / "blobs")  # F2

    def _part(self, blob: Blob) -> Path:
        return self.folder / "staging" / f"{blob.sha256}.part"


def _hash_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
