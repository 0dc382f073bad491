"""Decides what is believed: TUF's client workflow over our transport, and a memory that TUF's client does not have.

python-tuf writes its files without fsync and forgets a role's version when the role's key changes, so after each refresh
the files are synced here, and the highest versions are kept in the journal by (role, set of keys). They begin anew only
when root changes the keys of a role: that is TUF's own recovery from a version that an attacker drove too high.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.cloud.sync_transport import SyncTransport
from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import NotReachableError, RefusedError
from edge_agent.sync.records import Floor
from partition.errors import ManifestError
from partition.release.desired import (
    MAX_DESIRED_BYTES,
    Desired,
    desired_path,
    manifest_path,
    parse_desired,
)
from partition.release.manifest import CHANNEL_LIMIT, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from protos.errors import NotFoundError, WireError

logger = logging.getLogger(__name__)

ROLES = ("timestamp", "snapshot", "targets", "director")
# python-tuf asks a fetcher for URLs; only the last part of ours is ever used.
METADATA_URL = "tandem://metadata/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A signed release of this device's channel."""

    manifest: Manifest
    manifest_bytes: bytes  # as they were signed
    manifest_sha256: str
    min_release_counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What one refresh established."""

    floors: tuple[Floor, ...]
    versions: Mapping[str, int]
    min_release_counter: int  # highest of all releases of the channel
    desired: Desired


class TrustedRepository:
    """The device's view of the signed repository. One process at a time: the caller holds the sync lock."""

    def __init__(
        self, folder: Path, root: bytes, transport: SyncTransport, *, channel: str, disk: Disk
    ) -> None:
        """Prepare; nothing is read or sent yet.

        Args:
            folder: Of python-tuf's metadata; may be lost at any time.
            root: The first root, as the program ships it.
            transport: The way to the cloud.
            channel: Whose document is followed.
            disk: For the syncs.
        """
        self._folder = folder
        self._root = root
        self._transport = transport
        self._channel = channel
        self._disk = disk
        self._updater: Updater | None = None

    def refresh(self, floors: Mapping[tuple[str, str], int]) -> Trusted:
        """Fetch and verify what is new.

        Args:
            floors: Highest version seen, by role and digest of its keys.

        Raises:
            NotReachableError: The network.
            RefusedError: Something was not signed, expired, older than before, or malformed.
        """
        self._tidy()
        with _translated():
            # Its clock is read once, so each cycle has an updater of its own.
            self._updater = Updater(
                str(self._folder),
                METADATA_URL,
                fetcher=_Fetcher(self._transport),
                bootstrap=self._root,
            )
            try:
                self._updater.refresh()
                target = self._updater.get_targetinfo(desired_path(self._channel))
            finally:
                self._make_durable()
        found = self._floors()
        for floor in found:
            if floor.version < floors.get((floor.role, floor.keys), 0):
                raise RefusedError(
                    f"{floor.role} went back to version {floor.version}; nothing is installed until it is newer",
                    "rollback",
                )
        if target is None:
            raise RefusedError(
                f"nobody says what channel {self._channel} shall run; ask the operator to set it",
                "not_for_us",
            )
        try:
            desired = parse_desired(self._fetch_target(target, MAX_DESIRED_BYTES))
        except ManifestError as error:
            raise RefusedError(str(error), "bad_manifest") from error
        return Trusted(
            floors=found,
            versions={floor.role: floor.version for floor in found},
            min_release_counter=max(
                (custom.min_release_counter for custom in self._customs()), default=0
            ),
            desired=desired,
        )

    def release(self, name: str) -> Release:
        """Fetch and verify the manifest of a release; after :meth:`refresh`.

        Raises:
            NotReachableError: The network.
            RefusedError: No offline key signed it for this channel, or it is not what was signed.
        """
        assert self._updater is not None, "refresh comes first"
        with _translated():
            target = self._updater.get_targetinfo(manifest_path(name))
        custom = _custom_of(target) if target is not None else None
        if target is None or custom is None or self._channel not in custom.channels:
            raise RefusedError(
                f"{name} is no signed release of channel {self._channel}; publish it first",
                "not_for_us",
            )
        data = self._fetch_target(target, MAX_MANIFEST_BYTES)
        try:
            manifest = parse_manifest(data)
        except ManifestError as error:
            raise RefusedError(str(error), "bad_manifest") from error
        if manifest.release != name or manifest.release_counter != custom.release_counter:
            raise RefusedError(f"the manifest of {name} is another release's", "mix_and_match")
        return Release(
            manifest=manifest,
            manifest_bytes=data,
            manifest_sha256=hashlib.sha256(data).hexdigest(),
            min_release_counter=custom.min_release_counter,
        )

    def _fetch_target(self, target: TargetFile, most: int) -> bytes:
        """Fetch a small target by its digest; ``download_target`` can neither resume nor sync."""
        if target.length > most:
            raise RefusedError(
                f"{target.path} is longer than any of its kind may be", "endless_data"
            )
        data = bytearray()
        with _translated():
            digest = target.hashes.get("sha256")
            if digest is None:
                raise RepositoryError("a target without SHA-256")
            try:
                for chunk in self._transport.get_blob(digest, 0):
                    data += chunk.data
                    if len(data) > target.length:
                        raise RefusedError(
                            f"{target.path} does not end where it was signed to", "endless_data"
                        )
            except WireError as error:
                raise DownloadError(error.reason) from error
            target.verify_length_and_hashes(bytes(data))
        return bytes(data)

    def _floors(self) -> tuple[Floor, ...]:
        root: Metadata[Root] = Metadata.from_file(str(self._folder / "root.json"))
        floors = [Floor("root", "", root.signed.version)]
        targets: Metadata[Targets] = self._load("targets")
        delegations = targets.signed.delegations
        for role in ROLES:
            holder = root.signed.roles.get(role)
            if holder is None and delegations is not None and delegations.roles is not None:
                holder = delegations.roles.get(role)
            if holder is not None and (self._folder / f"{role}.json").exists():
                keys = hashlib.sha256("\0".join(sorted(holder.keyids)).encode()).hexdigest()
                floors.append(Floor(role, keys, self._load(role).signed.version))
        return tuple(floors)

    def _customs(self) -> Iterator[_Custom]:
        """Yield the signed attributes of every release of the channel, also of those that nobody is told to run."""
        targets: Metadata[Targets] = self._load("targets")
        for path, target in targets.signed.targets.items():
            custom = _custom_of(target) if path.startswith("releases/") else None
            if custom is not None and self._channel in custom.channels:
                yield custom

    def _load(self, role: str) -> Metadata[Any]:
        return Metadata.from_file(str(self._folder / f"{role}.json"))

    def _tidy(self) -> None:
        """Delete what a killed write left behind."""
        for left in self._folder.glob("tmp*"):
            self._disk.unlink(left)

    def _make_durable(self) -> None:
        history = self._folder / "root_history"
        for path in (*self._folder.glob("*.json"), *history.glob("*.json")):
            if not path.is_symlink():
                self._disk.sync_file(path)
        for folder in (history, self._folder):
            if folder.is_dir():
                self._disk.sync_folder(folder)


class _Fetcher(FetcherInterface):
    """Carries python-tuf's downloads over our transport."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Return a file's bytes.

        The call is made before this returns: errors that rise later, out of a generator, would escape python-tuf's
        handling. Only "not found" may look like 404, which means "no newer root": a login that expired and looked
        like 403 would hide a rotation of keys.
        """
        name = url.rsplit("/", 1)[-1]
        try:
            return iter((self._transport.get_metadata(name),))
        except NotFoundError as error:
            raise DownloadHTTPError(name, 404) from error
        except WireError as error:
            raise DownloadError(error.reason) from error


@contextmanager
def _translated() -> Iterator[None]:
    """Say in our words what python-tuf found, most specific first."""
    try:
        yield
    except DownloadLengthMismatchError as error:
        raise RefusedError(
            "metadata does not end where it was signed to", "endless_data"
        ) from error
    except DownloadError as error:
        raise NotReachableError(
            "the cloud could not be asked for releases; the next cycle tries again"
        ) from error
    except ExpiredMetadataError as error:
        raise RefusedError(
            "the newest metadata has expired; check the clock, or have the operator sign it again",
            "freeze",
        ) from error
    except UnsignedMetadataError as error:
        raise RefusedError(
            "metadata is not signed by the keys that may sign it", "bad_signature"
        ) from error
    except BadVersionNumberError as error:
        raise RefusedError(
            "metadata has an older or another version than it must have", "rollback"
        ) from error
    except LengthOrHashMismatchError as error:
        raise RefusedError("a file is not the one that was signed", "mix_and_match") from error
    except (RepositoryError, ValueError, TypeError, KeyError) as error:
        # Hostile metadata can fail python-tuf's own parsing in many ways.
        raise RefusedError("metadata is malformed", "bad_metadata") from error


class _Custom(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True, strict=True)
    release_counter: Annotated[int, Field(ge=0)]
    min_release_counter: Annotated[int, Field(ge=0)]
    channels: Annotated[list[str], Field(max_length=CHANNEL_LIMIT)]


def _custom_of(target: TargetFile) -> _Custom | None:
    try:
        return _Custom.model_validate(target.unrecognized_fields.get("custom"))
    except ValidationError:
        return None  # no attributes, so for no channel
