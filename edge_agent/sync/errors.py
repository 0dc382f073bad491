"""What can go wrong while a release comes to the device, split by who must act. Answering never depends on it.

SyncError
 +-- NotReachableError   the network; the next cycle tries again
 +-- RefusedError        the publisher, or somebody who attacks: `kind` says how it looked
 +-- NoSpaceError        the operator frees space
 +-- SyncFolderError     the operator: the folder cannot be used, or another process uses it
 +-- GateError           the release is worse here than the publisher promised

``kind`` is one word, the one that is reported to the cloud; no text of any request is near it.
"""

from __future__ import annotations

from typing import Final

from edge_agent.errors import EdgeError

KINDS: Final = (
    "anonymizer",
    "bad_hash",
    "bad_manifest",
    "bad_metadata",
    "bad_signature",
    "clock_back",
    "crash",
    "endless_data",
    "folder",
    "freeze",
    "gate",
    "mix_and_match",
    "no_space",
    "not_for_us",
    "operator",
    "rollback",
    "runtime_too_old",
    "too_slow",
    "trial",
    "unreachable",
)


class SyncError(EdgeError):
    """Root of the errors of synchronisation; the message says what to do next."""

    def __init__(self, message: str, kind: str) -> None:
        assert kind in KINDS, kind
        super().__init__(message)
        self.kind = kind


class NotReachableError(SyncError):
    """The cloud cannot be reached, or sends too slowly."""

    def __init__(self, message: str, kind: str = "unreachable") -> None:
        super().__init__(message, kind)


class RefusedError(SyncError):
    """What was received is not believed, or not for this device; nothing was changed."""


class NoSpaceError(SyncError):
    """The disk has too little room for the release beside the ones that must stay."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "no_space")


class SyncFolderError(SyncError):
    """The folder cannot be used: wrong file system, unreadable journal, or another process has it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "folder")


class GateError(SyncError):
    """The release did not pass its golden prompts on this device."""

    def __init__(self, message: str, kind: str = "gate") -> None:
        super().__init__(message, kind)
