"""The signed repository that devices follow: TUF metadata, and blobs named by their SHA-256.

    metadata/   N.root.json N.targets.json N.director.json N.snapshot.json timestamp.json
    blobs/      <hex>
    staged/     metadata that waits for offline signatures
    channels.json   which tenants may read which channel

Two voices stay apart, as in Uptane: *targets* (offline, two of three keys) says which releases exist, *director* (online,
one key) says which of them a channel shall run. A stolen cloud can pick another signed release, never make one.
Everything is written blobs first, timestamp last, so that a reader never sees a name before its content.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from cloud_service.errors import RepositoryError
from cloud_service.releases.keys import add_signatures, load_metadata
from cloud_service.releases.roles import DIRECTOR, releases_of
from partition.release.desired import Desired, desired_path, parse_desired
from partition.store.durable import sync_folder

NAME_PATTERN = re.compile(r"(\d{1,9}\.)?[a-z0-9_-]{1,64}\.json")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
ONLINE_ROLES = ("timestamp", "snapshot", DIRECTOR)
LIFETIME = {
    "root": timedelta(days=365),
    "targets": timedelta(days=180),
    DIRECTOR: timedelta(days=7),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(hours=48),
}


def utc_now() -> datetime:
    """Return the time in whole seconds, as metadata has it."""
    return datetime.now(UTC).replace(microsecond=0)


class ReleaseRepository:
    """Owner of one repository folder. Writers exclude each other by a file lock; readers need none."""

    def __init__(
        self,
        folder: Path,
        signers: Mapping[str, Signer] | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Open a folder.

        Args:
            folder: Made when missing.
            signers: Of the online roles; without them nothing online can be signed, only read and staged.
            now: The clock.
        """
        self.folder = folder
        self._signers = dict(signers or {})
        self._now = now
        for name in ("metadata", "blobs", "staged"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    # What devices read

    def read(self, name: str) -> bytes | None:
        """Return a metadata file, or None when there is none of that name."""
        if NAME_PATTERN.fullmatch(name) is None:
            return None
        try:
            return (self.folder / "metadata" / name).read_bytes()
        except FileNotFoundError:
            return None

    def blob(self, digest: str) -> Path | None:
        """Return where a blob lies, or None when it is not here."""
        if DIGEST_PATTERN.fullmatch(digest) is None:
            return None
        path = self.folder / "blobs" / digest
        return path if path.is_file() else None

    # The newest metadata

    @property
    def root(self) -> Metadata[Root]:
        """The newest root.

        Raises:
            RepositoryError: The key ceremony was not held yet.
        """
        versions = [
            int(path.name.split(".")[0]) for path in (self.folder / "metadata").glob("*.root.json")
        ]
        if not versions:
            raise RepositoryError(
                f"{self.folder}: no root yet; hold the key ceremony with `cloud-service publish init`"
            )
        return load_metadata(self.folder / "metadata" / f"{max(versions)}.root.json")

    @property
    def timestamp(self) -> Metadata[Timestamp]:
        """The newest timestamp."""
        return load_metadata(self.folder / "metadata" / "timestamp.json")

    @property
    def snapshot(self) -> Metadata[Snapshot]:
        """The newest snapshot."""
        return self._versioned("snapshot", self.timestamp.signed.snapshot_meta.version)

    @property
    def targets(self) -> Metadata[Targets]:
        """The newest targets: every release there is."""
        return self._versioned("targets", self.snapshot.signed.meta["targets.json"].version)

    @property
    def director(self) -> Metadata[Targets]:
        """The newest director: what every channel shall run."""
        return self._versioned(DIRECTOR, self.snapshot.signed.meta[f"{DIRECTOR}.json"].version)

    @property
    def is_published(self) -> bool:
        """Whether devices can follow it yet."""
        return (self.folder / "metadata" / "timestamp.json").exists()

    def desired(self, channel: str) -> Desired | None:
        """Return what a channel shall run, or None when nobody said."""
        target = self.director.signed.targets.get(desired_path(channel))
        path = self.blob(target.hashes["sha256"]) if target is not None else None
        return parse_desired(path.read_bytes()) if path is not None else None

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers: a command and the service may use one folder. Re-entrant in one thread."""
        with FileLock(self.folder / "lock", is_singleton=True):
            yield

    def add_blob(self, source: Path | bytes) -> str:
        """Store bytes under their SHA-256; durable when this returns."""
        folder = self.folder / "blobs"
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
            for piece in _pieces(source):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).replace(folder / digest.hexdigest())
        sync_folder(folder)
        return digest.hexdigest()

    def stage(self, metadata: Metadata[Any]) -> Path:
        """Write metadata that waits for offline signatures; replaces an earlier one of its role, and its signatures."""
        role: str = metadata.signed.type
        for old in (self.folder / "staged").glob(f"*.{role}.json*"):
            old.unlink()
        metadata.signatures.clear()
        path = self.folder / "staged" / f"{metadata.signed.version}.{role}.json"
        _write(path, metadata)
        return path

    def staged(self, role: str) -> Metadata[Any] | None:
        """Return what waits for signatures in a role."""
        paths = list((self.folder / "staged").glob(f"*.{role}.json"))
        return load_metadata(paths[0]) if paths else None

    def commit(self) -> tuple[str, ...]:
        """Publish what is staged and has enough signatures: root first, then targets with all that follows from it.

        Returns:
            The roles published.

        Raises:
            RepositoryError: Something staged has too few good signatures, or a version that does not follow, or the
                online keys are not those that it names; nothing was published.
        """
        with self.writing():
            root = self._signed("root")
            targets = self._signed("targets", root)
            staged = {"root": root, "targets": targets}
            if targets is not None or (root is not None and self.is_published):
                self._check_online(root or self.root, targets or self.targets)
            if root is not None:
                self._put(root)
            if targets is not None or (root is not None and self.is_published):
                # A new key of an online role signs at once.
                self._publish(targets=targets, everything=root is not None)
            done = tuple(role for role, metadata in staged.items() if metadata is not None)
            for role in done:
                for path in (self.folder / "staged").glob(f"*.{role}.json*"):
                    path.unlink()
        return done

    def set_desired(self, channel: str, desired: Desired) -> None:
        """Tell the devices of a channel what to run.

        Raises:
            RepositoryError: The version does not grow, or a release is not one of this channel.
        """
        with self.writing():
            before = self.desired(channel)
            if before is not None and desired.version <= before.version:
                raise RepositoryError(
                    f"version {desired.version} of {channel} does not follow {before.version}; read it again"
                )
            known = releases_of(self.targets.signed, channel)
            for release in desired.releases():
                if release not in known:
                    raise RepositoryError(f"{release} is no release of {channel}; publish it first")
            data = desired.to_bytes()
            self.add_blob(data)
            director = self.director
            path = desired_path(channel)
            director.signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
            self._publish(director=director)

    def refresh(self) -> None:
        """Sign the online roles again; the timestamp hourly, the others when half of their life is over."""
        with self.writing():
            self._check_online(self.root, self.targets)
            director, snapshot = self.director, self.snapshot
            stale = [
                role.signed.expires - self._now() < LIFETIME[name] / 2
                for name, role in ((DIRECTOR, director), ("snapshot", snapshot))
            ]
            if any(stale):
                self._publish(director=director if stale[0] else None)
            else:
                self._publish_timestamp(self.timestamp, snapshot)

    # Inside

    def expiry(self, role: str) -> datetime:
        """Return when metadata of a role that is signed now shall expire."""
        return self._now() + LIFETIME[role]

    def _versioned(self, role: str, version: int) -> Metadata[Any]:
        return load_metadata(self.folder / "metadata" / f"{version}.{role}.json")

    def _check_online(self, root: Metadata[Root], targets: Metadata[Targets]) -> None:
        """Refuse to sign what no device would believe: a key that root or targets do not name."""
        delegations = targets.signed.delegations
        assert delegations is not None, "make_targets delegates to the director"
        assert delegations.roles is not None, "and by name"
        named = {**root.signed.roles, DIRECTOR: delegations.roles[DIRECTOR]}
        for role in ONLINE_ROLES:
            signer = self._signers.get(role)
            if signer is not None and signer.public_key.keyid not in named[role].keyids:
                raise RepositoryError(
                    f"the online key of {role} is not the one that the offline keys signed for; "
                    "give the folder of the keys that were rotated in"
                )

    def _signed(self, role: str, next_root: Metadata[Root] | None = None) -> Metadata[Any] | None:
        metadata = self.staged(role)
        if metadata is None:
            return None
        pattern = f"{metadata.signed.version}.{role}.json.*.sig.json"
        add_signatures(metadata, tuple(sorted((self.folder / "staged").glob(pattern))))
        delegators: list[Root] = []
        if role == "root":
            if list((self.folder / "metadata").glob("*.root.json")):
                delegators.append(self.root.signed)  # version N signs N + 1
                _check_next(metadata, self.root)
            delegators.append(metadata.signed)
        else:
            delegators.append((next_root or self.root).signed)
            if self.is_published:
                _check_next(metadata, self.targets)
        for delegator in delegators:
            try:
                delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            except TufError as error:
                raise RepositoryError(
                    f"{role} version {metadata.signed.version} has too few good signatures; "
                    "let another key holder sign it with `cloud-service publish sign`"
                ) from error
        return metadata

    def _publish(
        self,
        *,
        targets: Metadata[Targets] | None = None,
        director: Metadata[Targets] | None = None,
        everything: bool = False,
    ) -> None:
        timestamp: Metadata[Timestamp] | None
        self._check_online(self.root, targets or self.targets)
        if self.is_published:
            snapshot, timestamp = self.snapshot, self.timestamp
            snapshot.signed.version += 1
            if director is None and (everything or targets is not None):
                director = self.director  # its key may be another one now
            if director is not None:
                director.signed.version += 1
        else:
            director = Metadata(Targets(version=1))
            snapshot, timestamp = Metadata(Snapshot(version=1)), None
        if targets is not None:
            snapshot.signed.meta["targets.json"] = _describe(targets)
            self._put(targets)
        if director is not None:
            self._sign(DIRECTOR, director)
            snapshot.signed.meta[f"{DIRECTOR}.json"] = _describe(director)
            self._put(director, DIRECTOR)
        self._sign("snapshot", snapshot)
        self._put(snapshot)
        self._publish_timestamp(timestamp, snapshot)

    def _publish_timestamp(
        self, before: Metadata[Timestamp] | None, snapshot: Metadata[Snapshot]
    ) -> None:
        version = 1 if before is None else before.signed.version + 1
        timestamp = Metadata(Timestamp(version=version))
        timestamp.signed.snapshot_meta = _describe(snapshot)
        self._sign("timestamp", timestamp)
        _write(self.folder / "metadata" / "timestamp.json", timestamp)

    def _sign(self, role: str, metadata: Metadata[Any]) -> None:
        signer = self._signers.get(role)
        if signer is None:
            raise RepositoryError(f"no online key of {role}; give the folder of online keys")
        metadata.signed.expires = self.expiry(role)
        metadata.sign(signer, append=False)

    def _put(self, metadata: Metadata[Any], role: str | None = None) -> None:
        name = f"{metadata.signed.version}.{role or metadata.signed.type}.json"
        _write(self.folder / "metadata" / name, metadata)


def _check_next(metadata: Metadata[Any], before: Metadata[Any]) -> None:
    if metadata.signed.version != before.signed.version + 1:
        raise RepositoryError(
            f"version {metadata.signed.version} of {metadata.signed.type} does not follow "
            f"{before.signed.version}; stage it again"
        )


def _describe(metadata: Metadata[Any]) -> MetaFile:
    data = metadata.to_bytes(JSONSerializer(compact=True))
    digest = hashlib.sha256(data).hexdigest()
    return MetaFile(metadata.signed.version, len(data), {"sha256": digest})


def _pieces(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _write(path: Path, metadata: Metadata[Any]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(metadata.to_bytes(JSONSerializer(compact=True)))
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    sync_folder(path.parent)
