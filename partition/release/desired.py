"""The one signed document of a channel: which release, for which share of its devices.

The device decides alone, so one document serves any number of devices and the cloud keeps no list. Rings nest: the salt
stays through a rollout, so a device that had the candidate at 1 % has it at 10 %; the next rollout has another salt, so
that not always the same devices go first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import ManifestError
from partition.release.manifest import DIGEST_PATTERN, RELEASE_PATTERN

NUM_BUCKETS = 10_000
MAX_DESIRED_BYTES = 1_000_000
CHANNEL_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the devices of a channel shall run."""

    version: int  # grows with every change, also when an older release is named again
    salt: str
    base: str
    candidate: str | None = None
    buckets: int = 0  # of NUM_BUCKETS that get the candidate
    pins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    hold: bool = False  # nobody begins a new release
    retry_epoch: int = 0  # raise it to have failed releases tried again

    def to_bytes(self) -> bytes:
        """Serialise to the bytes that are signed."""
        document = {
            "schema": 1,
            "version": self.version,
            "salt": self.salt,
            "base": self.base,
            "candidate": self.candidate,
            "buckets": self.buckets,
            "pins": dict(self.pins),
            "hold": self.hold,
            "retry_epoch": self.retry_epoch,
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    def releases(self) -> tuple[str, ...]:
        """Return every release that some device may be told to run."""
        named = {self.base, *self.pins.values()}
        if self.candidate is not None:
            named.add(self.candidate)
        return tuple(sorted(named))


def desired_path(channel: str) -> str:
    """Return the target path of a channel's document."""
    return f"desired/{channel}.json"


def manifest_path(release: str) -> str:
    """Return the target path of a release's manifest."""
    return f"releases/{release}/manifest.json"


def device_digest(device_id: str) -> str:
    """Return the name under which a device is pinned: the document does not list the fleet."""
    return hashlib.sha256(device_id.encode()).hexdigest()


def bucket_of(salt: str, device_id: str) -> int:
    """Return the device's place in a rollout, in [0, NUM_BUCKETS)."""
    digest = hashlib.sha256(f"{salt}\0{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % NUM_BUCKETS


def choose_release(desired: Desired, device_id: str) -> str:
    """Return the release that one device shall run: its pin, else the candidate in its ring, else the base."""
    pin = desired.pins.get(device_digest(device_id))
    if pin is not None:
        return pin
    if desired.candidate is not None and bucket_of(desired.salt, device_id) < desired.buckets:
        return desired.candidate
    return desired.base


def parse_desired(data: bytes) -> Desired:
    """Read and check the document.

    Raises:
        ManifestError: It is too large, malformed, or of an unknown schema.
    """
    if len(data) > MAX_DESIRED_BYTES:
        raise ManifestError(f"the desired document has {len(data)} bytes; too many")
    try:
        document = _DesiredDocument.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(
            f"the desired document is malformed at {where}: {first['msg']}"
        ) from error
    return Desired(**document.model_dump(exclude={"schema_"}))


_Release = Annotated[str, Field(pattern=RELEASE_PATTERN)]


class _DesiredDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True, strict=True)
    schema_: Annotated[Literal[1], Field(alias="schema")]
    version: Annotated[int, Field(ge=1, lt=1 << 53)]
    salt: Annotated[str, Field(max_length=128)]
    base: _Release
    candidate: _Release | None = None
    buckets: Annotated[int, Field(ge=0, le=NUM_BUCKETS)] = 0
    pins: dict[Annotated[str, Field(pattern=DIGEST_PATTERN)], _Release] = {}
    hold: bool = False
    retry_epoch: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
