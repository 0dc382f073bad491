"""The manifest of a release: one JSON file that names every file of a bundle by its SHA-256.

It is a target of the signed metadata; everything else is reached through its hashes. Both ends read it with the same
code: the publisher before it signs, the device before it fetches. Unknown fields are ignored, so that an older device
reads a newer manifest; an unknown ``schema`` is refused.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import ManifestError

SCHEMA = 1
PART_BYTES = 1 << 20  # the unit of resume: what a killed download fetches twice at most
MAX_MANIFEST_BYTES = 1_000_000
MAX_FILE_BYTES = 64 << 30
CHANNEL_LIMIT = 1000  # of one release
RELEASE_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"  # no dot: "<release>.tmp" is the installer's
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


class ReleaseKind(enum.StrEnum):
    """Whether a release brings a model of its own, or an adapter for another release's model."""

    FULL = "full"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Immutable bytes, named by their SHA-256."""

    sha256: str
    size_bytes: int
    parts: tuple[str, ...]  # SHA-256 of each slice of PART_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file of a bundle."""

    path: str  # relative, with "/"
    blob: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDelta:
    """A shorter way to one file, for a device that holds ``base_sha256``."""

    path: str  # of the file it makes
    base_sha256: str
    codec: str
    blob: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What a device's own run of the golden prompts may differ by before the release is refused."""

    max_abs_logprob: float = 0.05  # nats, between this device's score and the publisher's
    label_match: float = 1.0  # share of labels that must be the same where the publisher was sure
    p95_ratio: float = 1.2  # latency against the running release, same prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that changes together: weights, tokenizer, tasks, scorer, certificate, plan, golden outputs."""

    release: str
    release_counter: int  # grows with every release of the repository
    kind: ReleaseKind
    base_release: str | None  # of an adapter
    min_runtime: str  # lowest version of this program that can run it, "1.2.3"
    fingerprint: str
    files: tuple[BundleFile, ...]
    deltas: tuple[FileDelta, ...]
    golden: str | None  # digest of the golden outputs, one of the files
    gate: GateLimits

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, uncompressed."""
        return sum(file.blob.size_bytes for file in self.files)

    def file(self, path: str) -> BundleFile | None:
        """Return the file at a path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def deltas_of(self, path: str) -> tuple[FileDelta, ...]:
        """Return the deltas that make the file at a path."""
        return tuple(delta for delta in self.deltas if delta.path == path)

    def blobs(self) -> Iterator[Blob]:
        """Yield the blob of every file and every delta."""
        yield from (file.blob for file in self.files)
        yield from (delta.blob for delta in self.deltas)

    def to_bytes(self) -> bytes:
        """Serialise to the bytes that are signed; the same manifest always gives the same bytes."""
        document = {
            "schema": SCHEMA,
            "release": self.release,
            "release_counter": self.release_counter,
            "kind": self.kind.value,
            "base_release": self.base_release,
            "min_runtime": self.min_runtime,
            "fingerprint": self.fingerprint,
            "files": [{"path": file.path, **_blob_fields(file.blob)} for file in self.files],
            "deltas": [
                {
                    "path": delta.path,
                    "base_sha256": delta.base_sha256,
                    "codec": delta.codec,
                    **_blob_fields(delta.blob),
                }
                for delta in self.deltas
            ],
            "golden": self.golden,
            "gate": {
                "max_abs_logprob": self.gate.max_abs_logprob,
                "label_match": self.gate.label_match,
                "p95_ratio": self.gate.p95_ratio,
            },
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def parse_manifest(data: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: It is too large, malformed, of an unknown schema, or names a path that leaves its folder.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"the manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read"
        )
    try:
        return _ManifestDocument.model_validate_json(data).to_manifest()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"the manifest is malformed at {where}: {first['msg']}") from error


def describe_blob(path: Path) -> Blob:
    """Hash a file, whole and by parts; reads it once, 1 MiB at a time."""
    whole, parts, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            whole.update(part)
            parts.append(hashlib.sha256(part).hexdigest())
            size += len(part)
    return Blob(sha256=whole.hexdigest(), size_bytes=size, parts=tuple(parts))


def runs_on(manifest: Manifest, runtime: str) -> bool:
    """Say whether a runtime of this version is new enough; what follows the third number is ignored."""
    return _version(runtime) >= _version(manifest.min_runtime)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _blob_fields(blob: Blob) -> dict[str, object]:
    return {"sha256": blob.sha256, "bytes": blob.size_bytes, "parts": list(blob.parts)}


_Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
_Path = Annotated[str, Field(pattern=PATH_PATTERN, max_length=255)]
_Release = Annotated[str, Field(pattern=RELEASE_PATTERN)]


class _Document(BaseModel):
    # Unknown fields are a newer publisher's, and ignored.
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True, strict=True)


class _BlobDocument(_Document):
    path: _Path
    sha256: _Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    parts: list[_Digest]

    @model_validator(mode="after")
    def _parts_cover_bytes(self) -> Self:
        if len(self.parts) != -(-self.bytes // PART_BYTES):
            raise ValueError("`parts` must hold one digest for each MiB begun")
        return self

    def to_blob(self) -> Blob:
        return Blob(sha256=self.sha256, size_bytes=self.bytes, parts=tuple(self.parts))


class _DeltaDocument(_BlobDocument):
    base_sha256: _Digest
    codec: Annotated[str, Field(max_length=32)]


class _GateDocument(_Document):
    max_abs_logprob: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label_match: Annotated[float, Field(ge=0, le=1)]
    p95_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _ManifestDocument(_Document):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    release: _Release
    release_counter: Annotated[int, Field(ge=0, lt=1 << 53)]
    kind: Annotated[ReleaseKind, Field(strict=False)]
    base_release: _Release | None = None
    min_runtime: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    fingerprint: Annotated[str, Field(max_length=128)]
    files: Annotated[list[_BlobDocument], Field(min_length=1, max_length=10_000)]
    deltas: Annotated[list[_DeltaDocument], Field(max_length=10_000)] = []
    golden: _Digest | None = None
    gate: _GateDocument

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("two files have the same path")
        folders = {
            path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)
        }
        if folders & set(paths):
            raise ValueError("one path is a file and a folder")
        if not {delta.path for delta in self.deltas} <= set(paths):
            raise ValueError("a delta makes a file that the release does not have")
        if self.golden is not None and self.golden not in {file.sha256 for file in self.files}:
            raise ValueError("`golden` is not the digest of one of the files")
        if (self.kind is ReleaseKind.ADAPTER) != (self.base_release is not None):
            raise ValueError("`base_release` belongs to an adapter, and an adapter needs it")
        return self

    def to_manifest(self) -> Manifest:
        return Manifest(
            release=self.release,
            release_counter=self.release_counter,
            kind=self.kind,
            base_release=self.base_release,
            min_runtime=self.min_runtime,
            fingerprint=self.fingerprint,
            files=tuple(BundleFile(path=file.path, blob=file.to_blob()) for file in self.files),
            deltas=tuple(
                FileDelta(
                    path=delta.path,
                    base_sha256=delta.base_sha256,
                    codec=delta.codec,
                    blob=delta.to_blob(),
                )
                for delta in self.deltas
            ),
            golden=self.golden,
            gate=GateLimits(
                max_abs_logprob=self.gate.max_abs_logprob,
                label_match=self.gate.label_match,
                p95_ratio=self.gate.p95_ratio,
            ),
        )
