"""Makes a release out of a folder of files, and stages it for its offline signatures.

Blobs are stored at once: a blob that no signed manifest names is never served. The release exists for devices when two
holders have signed the staged targets and the repository commits them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from cloud_service.errors import RepositoryError
from cloud_service.releases.keys import load_public_key, load_signer, make_key
from cloud_service.releases.repository import ONLINE_ROLES, ReleaseRepository
from cloud_service.releases.roles import (
    DIRECTOR,
    OFFLINE_THRESHOLD,
    make_root,
    make_targets,
    releases_of,
)
from partition.release.delta import CODEC, make_delta
from partition.release.desired import manifest_path
from partition.release.manifest import (
    Blob,
    BundleFile,
    FileDelta,
    GateLimits,
    Manifest,
    ReleaseKind,
    describe_blob,
    parse_manifest,
)

logger = logging.getLogger(__name__)

# A delta also costs time to apply: where it saves less, the whole file is fetched.
WORTHWHILE_RATIO = 0.8
MIN_DELTA_BYTES = 64 << 10  # smaller files are fetched whole
_GOLDEN = "golden.json"
_MODELS = frozenset({"model", "model.gguf"})
_MEASURED = frozenset({_GOLDEN, "certificates", "scorers", "heads"})  # on one model


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """What shall become a release."""

    release: str
    bundle: Path  # every file in it, at any depth, becomes part of the release
    over: str | None = None  # release whose other files come along, by their digests
    channels: tuple[str, ...]
    fingerprint: str
    kind: ReleaseKind = ReleaseKind.FULL
    base_release: str | None = None
    min_runtime: str = "0.1.0"
    golden: str | None = None  # path in the bundle
    gate: GateLimits = field(default_factory=GateLimits)
    min_release_counter: int = 0  # no release below this counter is installed any more
    delta_bases: tuple[str, ...] = ()  # releases that devices run now


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRelease:
    """A release that waits for signatures."""

    manifest: Manifest
    path: Path  # of the staged targets
    new_bytes: int  # of blobs that the repository did not have


def begin_repository(
    repository: ReleaseRepository,
    *,
    root: tuple[SSlibKey, ...],
    targets: tuple[SSlibKey, ...],
    online: Path,
) -> tuple[Path, Path]:
    """Hold the key ceremony: make the online keys, stage the first root and targets.

    Returns:
        The two files that the holders sign.

    Raises:
        RepositoryError: There is a root already.
        ReleaseKeyError: There are online keys already.
    """
    if list((repository.folder / "metadata").glob("*.root.json")):
        raise RepositoryError(f"{repository.folder}: the ceremony was held; rotate keys instead")
    keys = {role: load_public_key(make_key(online, role)) for role in ONLINE_ROLES}
    first = make_root(
        {
            "root": root,
            "targets": targets,
            "timestamp": (keys["timestamp"],),
            "snapshot": (keys["snapshot"],),
        },
        repository.expiry("root"),
    )
    return (
        repository.stage(first),
        repository.stage(make_targets(keys[DIRECTOR], repository.expiry("targets"))),
    )


def open_repository(folder: Path, online: Path | None) -> ReleaseRepository:
    """Open a repository with the online keys of a folder, as far as they are there."""
    signers = {}
    for role in ONLINE_ROLES:
        path = online / f"{role}.pem" if online is not None else None
        if path is not None and path.exists():
            signers[role] = load_signer(path)
    return ReleaseRepository(folder, signers)


def stage_rotation(
    repository: ReleaseRepository, role: str, *, remove: str | None, add: SSlibKey | None
) -> Path:
    """Stage the next root, or for the director the next targets, with one key of a role exchanged.

    What is staged already is taken further, so that several keys are exchanged together; it is signed anew.

    Args:
        repository: Where.
        role: root, targets, timestamp, snapshot or director.
        remove: Key id, or its beginning, of the key that goes.
        add: The key that comes.

    Raises:
        RepositoryError: No such key, or too few would be left.
    """
    document: Metadata[Any]
    holder: Root | Targets
    if role == DIRECTOR:
        document = _staged_or_next(repository, "targets")
        holder, name = document.signed, DIRECTOR
        delegations = document.signed.delegations
        assert delegations is not None, "make_targets delegates to the director"
        assert delegations.roles is not None, "and by name"
        keyids = delegations.roles[DIRECTOR].keyids
    else:
        document = _staged_or_next(repository, "root")
        holder, name = document.signed, role
        if role not in document.signed.roles:
            raise RepositoryError(f"{role} is no role; choose root, targets, timestamp or snapshot")
        keyids = document.signed.roles[role].keyids
    if remove is not None:
        matches = [keyid for keyid in keyids if keyid.startswith(remove)]
        if len(matches) != 1:
            raise RepositoryError(
                f"{role} has no single key that begins with {remove}; it has {', '.join(keyids)}"
            )
        holder.revoke_key(matches[0], name)
    if add is not None:
        holder.add_key(add, name)
    least = OFFLINE_THRESHOLD if role in ("root", "targets") else 1
    if len(keyids) < least:
        raise RepositoryError(f"{role} would keep {len(keyids)} keys and needs {least}; add one")
    document.signed.expires = repository.expiry("targets" if role == DIRECTOR else "root")
    return repository.stage(document)


def stage_renewal(repository: ReleaseRepository, role: str) -> Path:
    """Stage root or targets unchanged, with a later expiry."""
    document = _staged_or_next(repository, role)
    document.signed.expires = repository.expiry(role)
    return repository.stage(document)


def stage_release(
    repository: ReleaseRepository,
    request: ReleaseRequest,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> StagedRelease:
    """Make manifest, blobs and deltas of a bundle, and stage the targets that name it.

    Further releases staged before a commit are signed together.

    Raises:
        RepositoryError: The name is taken, a base is unknown, or an adapter release has no adapter.
        ManifestError: The bundle cannot be described: a bad name, or no file.
    """
    with repository.writing():
        targets: Metadata[Targets] = _staged_or_next(repository, "targets")
        targets.signed.expires = repository.expiry("targets")
        path = manifest_path(request.release)
        if path in targets.signed.targets:
            raise RepositoryError(
                f"{request.release} exists; a release never changes, choose a new name"
            )
        counter = 1 + max(
            (_counter(target) for target in targets.signed.targets.values()), default=0
        )
        files, new_bytes = list(_inherited(repository, targets.signed, request)), 0
        for name, source in _walk(request.bundle):
            progress(name)
            blob = describe_blob(source)
            if repository.blob(blob.sha256) is None:
                repository.add_blob(source)
                new_bytes += blob.size_bytes
            files = [file for file in files if file.path != name]
            files.append(BundleFile(path=name, blob=blob))
        if request.kind is ReleaseKind.ADAPTER and not _brings_adapter(files):
            raise RepositoryError(
                "an adapter release needs the folder `adapter` in its bundle and a model in its base; "
                "put the adapter there as PEFT saves it"
            )
        deltas = []
        for base in request.delta_bases:
            for delta in _make_deltas(repository, targets.signed, base, files, progress):
                deltas.append(delta)
                new_bytes += delta.blob.size_bytes
        at = request.golden or _GOLDEN
        golden = next((file.blob.sha256 for file in files if file.path == at), None)
        if request.golden is not None and golden is None:
            raise RepositoryError(f"{request.golden} is not in the bundle; name the golden outputs")
        manifest = Manifest(
            release=request.release,
            release_counter=counter,
            kind=request.kind,
            base_release=request.base_release,
            min_runtime=request.min_runtime,
            fingerprint=request.fingerprint,
            files=tuple(files),
            deltas=tuple(deltas),
            golden=golden,
            gate=request.gate,
        )
        data = manifest.to_bytes()
        parse_manifest(data)  # what a device would refuse is not published
        repository.add_blob(data)
        target = TargetFile.from_data(path, data, ["sha256"])
        target.unrecognized_fields["custom"] = {
            "release_counter": counter,
            "min_release_counter": request.min_release_counter,
            "channels": list(request.channels),
        }
        targets.signed.targets[path] = target
        staged = repository.stage(targets)
    logger.info("staged release %s, counter %d, %d new bytes", request.release, counter, new_bytes)
    return StagedRelease(manifest=manifest, path=staged, new_bytes=new_bytes)


def read_manifest(repository: ReleaseRepository, targets: Targets, release: str) -> Manifest:
    """Read the manifest of a signed release.

    Raises:
        RepositoryError: There is no such release.
    """
    target = targets.targets.get(manifest_path(release))
    path = repository.blob(target.hashes["sha256"]) if target is not None else None
    if path is None:
        raise RepositoryError(f"{release} is no release; see `cloud-service publish list`")
    return parse_manifest(path.read_bytes())


def reachable_blobs(repository: ReleaseRepository, channel: str) -> frozenset[str]:
    """Return the digests that devices of a channel may fetch: its document, its manifests, and what they name."""
    found = set()
    targets = repository.targets.signed
    document = repository.director.signed.targets.get(f"desired/{channel}.json")
    if document is not None:
        found.add(document.hashes["sha256"])
    for release, target in releases_of(targets, channel).items():
        found.add(target.hashes["sha256"])
        found.update(blob.sha256 for blob in read_manifest(repository, targets, release).blobs())
    return frozenset(found)


def days_left(repository: ReleaseRepository) -> dict[str, timedelta]:
    """Return how long root and targets are still good: the two that need people to sign again."""
    now = repository.expiry("timestamp") - timedelta(hours=48)
    root: Metadata[Root] = repository.root
    return {
        "root": root.signed.expires - now,
        "targets": repository.targets.signed.expires - now,
    }


def _staged_or_next(repository: ReleaseRepository, role: str) -> Metadata[Any]:
    """Return what waits for signatures in root or targets; where nothing does, the next version of what is published."""
    waiting = repository.staged(role)
    if waiting is not None:
        return waiting
    published: Metadata[Any] = repository.root if role == "root" else repository.targets
    published.signed.version += 1
    return published


def _counter(target: TargetFile) -> int:
    counter: int = target.unrecognized_fields["custom"]["release_counter"]
    return counter


def _inherited(
    repository: ReleaseRepository, targets: Targets, request: ReleaseRequest
) -> Iterator[BundleFile]:
    """Yield what comes along from another release; the bundle's own files replace it.

    A release stays whole in itself: what it shares has the same digests, so it takes no second room and no second way,
    and a device that never had the other release fetches it with this one. Where the bundle brings another model or
    adapter, nothing that was measured on the old one comes along.
    """
    source = request.base_release or request.over
    if source is None:
        return
    own = {name.split("/")[0] for name, _ in _walk(request.bundle)}
    left: set[str] = set()
    if own & _MODELS:
        left |= _MODELS
    if own & (_MODELS | {"adapter"}):
        left |= _MEASURED | {"adapter"}
    for file in read_manifest(repository, targets, source).files:
        if file.path.split("/")[0] not in left:
            yield file


def _brings_adapter(files: list[BundleFile]) -> bool:
    tops = {file.path.split("/")[0] for file in files}
    return "adapter" in tops and bool(tops & _MODELS)


def _walk(bundle: Path) -> Iterator[tuple[str, Path]]:
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    for path in paths:
        yield path.relative_to(bundle).as_posix(), path


def _make_deltas(
    repository: ReleaseRepository,
    targets: Targets,
    base: str,
    files: list[BundleFile],
    progress: Callable[[str], None],
) -> Iterator[FileDelta]:
    older = read_manifest(repository, targets, base)
    for file in files:
        before = older.file(file.path)
        if (
            before is None
            or before.blob.sha256 == file.blob.sha256
            or file.blob.size_bytes < MIN_DELTA_BYTES
        ):
            continue
        progress(f"{file.path} from {base}")
        blob = _delta_blob(repository, before.blob, file)
        if blob.size_bytes < WORTHWHILE_RATIO * file.blob.size_bytes:
            yield FileDelta(path=file.path, base_sha256=before.blob.sha256, codec=CODEC, blob=blob)


def _delta_blob(repository: ReleaseRepository, before: Blob, file: BundleFile) -> Blob:
    old, new = repository.blob(before.sha256), repository.blob(file.blob.sha256)
    if old is None or new is None:
        raise RepositoryError("a blob of the repository is missing; restore it from a backup")
    suffix = Path(file.path).suffix  # tells the kind of file
    with tempfile.TemporaryDirectory(dir=repository.folder) as scratch:
        paths = Path(scratch) / f"old{suffix}", Path(scratch) / f"new{suffix}"
        for blob, path in zip((old, new), paths, strict=True):
            os.link(blob, path)
        delta = Path(scratch) / "delta"
        make_delta(*paths, delta)
        described = describe_blob(delta)
        if described.size_bytes < WORTHWHILE_RATIO * file.blob.size_bytes:
            repository.add_blob(delta)
    return described
