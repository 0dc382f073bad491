"""The first root and targets of a repository, and what its targets say of a channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Root,
    TargetFile,
    Targets,
)

from cloud_service.errors import RepositoryError

DIRECTOR = "director"
OFFLINE_THRESHOLD = 2


def make_root(keys: Mapping[str, tuple[SSlibKey, ...]], expires: datetime) -> Metadata[Root]:
    """Make the first root; ``keys`` has root, targets (two of them sign), timestamp and snapshot (one signs).

    Raises:
        RepositoryError: An offline role has fewer than two keys.
    """
    root = Root(version=1, expires=expires, consistent_snapshot=True)
    for role in ("root", "targets", "timestamp", "snapshot"):
        for key in keys[role]:
            root.add_key(key, role)
        if role in ("root", "targets"):
            if len(set(root.roles[role].keyids)) < OFFLINE_THRESHOLD:
                raise RepositoryError(f"{role} needs at least {OFFLINE_THRESHOLD} different keys")
            root.roles[role].threshold = OFFLINE_THRESHOLD
    return Metadata(root)


def make_targets(director: SSlibKey, expires: datetime) -> Metadata[Targets]:
    """Make the first targets: no release yet, and the director may speak of ``desired/*`` only."""
    role = DelegatedRole(DIRECTOR, [director.keyid], 1, terminating=True, paths=["desired/*"])
    keys: dict[str, Key] = {director.keyid: director}
    delegations = Delegations(keys=keys, roles={DIRECTOR: role})
    return Metadata(Targets(version=1, expires=expires, delegations=delegations))


def releases_of(targets: Targets, channel: str) -> dict[str, TargetFile]:
    """Return the signed releases of a channel, by name."""
    found = {}
    for path, target in targets.targets.items():
        match = re.fullmatch(r"releases/([^/]+)/manifest\.json", path)
        if match and channel in target.unrecognized_fields.get("custom", {}).get("channels", []):
            found[match[1]] = target
    return found
