"""Makes TUF metadata of any kind, also of kinds that no honest publisher makes, and serves it to the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_agent.cloud.sync_transport import BlobChunk, Reported
from partition.release.desired import Desired
from protos.errors import NotFoundError, UnavailableError, WireError

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
PAST = datetime.now(UTC).replace(microsecond=0) - timedelta(days=5)


class Forge:
    """A repository in memory that signs whatever its roles hold at the moment they are asked for."""

    def __init__(self) -> None:
        self.signers = {
            role: [CryptoSigner.generate_ed25519()]
            for role in ("root", "timestamp", "snapshot", "targets", "director")
        }
        self.root = Root(version=1, expires=LATER, consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            self.root.add_key(self.signers[role][0].public_key, role)
        key = self.signers["director"][0].public_key
        role = DelegatedRole("director", [key.keyid], 1, terminating=True, paths=["desired/*"])
        self.targets = Targets(
            version=1, expires=LATER, delegations=Delegations({key.keyid: key}, {"director": role})
        )
        self.director = Targets(version=1, expires=LATER)
        self.snapshot = Snapshot(version=1, expires=LATER)
        self.snapshot.meta["director.json"] = MetaFile(1)
        self.timestamp = Timestamp(version=1, expires=LATER)
        self.roots: list[bytes] = []
        self.overrides: dict[str, bytes | WireError] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.with_hashes = False
        self.desire(Desired(version=1, salt="s", base="cxr-1"))
        self.publish_root()

    # What a publisher does

    def publish_root(self) -> None:
        """Serve the root as it is now under the next free number."""
        self.roots.append(self._sign("root", self.root))

    def rotate(self, role: str) -> None:
        """Give a role of root another key; the caller publishes the root."""
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        self.signers[role] = [CryptoSigner.generate_ed25519()]
        self.root.add_key(self.signers[role][0].public_key, role)

    def update_timestamp(self) -> None:
        self.timestamp.snapshot_meta = self._describe("snapshot", self.snapshot)
        self.timestamp.version += 1

    def update_snapshot(self) -> None:
        self.snapshot.meta["targets.json"] = self._describe("targets", self.targets)
        self.snapshot.meta["director.json"] = self._describe("director", self.director)
        self.snapshot.version += 1
        self.update_timestamp()

    def desire(self, desired: Desired, path: str = "desired/cxr.json") -> None:
        data = desired.to_bytes()
        self.add_target(self.director, path, data)

    def add_target(
        self, role: Targets, path: str, data: bytes, custom: object = None
    ) -> TargetFile:
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        role.targets[path] = target
        self.blobs[hashlib.sha256(data).hexdigest()] = data
        return target

    # What a device sees

    def get_metadata(self, name: str) -> bytes:
        self.asked.append(name)
        override = self.overrides.get(name)
        if isinstance(override, WireError):
            raise override
        if override is not None:
            return override
        version, _, role = name.removesuffix(".json").rpartition(".")
        if role == "root":
            if int(version) > len(self.roots):
                raise NotFoundError("no such root")
            return self.roots[int(version) - 1]
        return self._sign(role, getattr(self, role))

    def get_blob(self, digest: str, offset: int) -> Iterator[BlobChunk]:
        if digest not in self.blobs:
            raise NotFoundError("no such blob")
        yield BlobChunk(offset, self.blobs[digest][offset:])

    def watch_desired(self, channel: str, have_version: int) -> Iterator[int]:
        raise UnavailableError("not served here")

    def report(self, request_id: str, reported: Reported) -> None:
        raise UnavailableError("not served here")

    def _sign(self, role: str, signed: object) -> bytes:
        metadata = Metadata(signed)
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def _describe(self, role: str, signed: Snapshot | Targets) -> MetaFile:
        if not self.with_hashes:
            return MetaFile(signed.version)
        data = self._sign(role, signed)
        return MetaFile(signed.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
