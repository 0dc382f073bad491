"""What can go wrong on the device, split by who must act. A message says what to do next, and never holds request text.

EdgeError
 +-- InputError             the caller corrects the request
 +-- OutputError            the caller gives another place to write to
 +-- ConfigError            the operator corrects a setting, task file or certificate
 +-- RequestStoppedError    the caller gave up
 +-- KeyStoreError          the operator corrects the key file
 +-- OutboxError            a request cannot wait for the cloud
      +-- OutboxBusyError       another process holds the database; try again
      +-- OutboxFullError       its limit, or the disk; free some space
      +-- OutboxKeyError        written with another key; restore the key file
      +-- OutboxCorruptError    the file is damaged; restore it from a copy
      +-- OutboxConflictError   the id was used before, for another request

What the cloud says is another tree: :mod:`protos.errors`.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Root of the errors of this package."""


class InputError(EdgeError):
    """The request is empty, too long, malformed, or of an unknown task."""


class OutputError(EdgeError):
    """The results cannot be written."""


class ConfigError(EdgeError):
    """A setting is wrong; the message names file and key."""


class RequestStoppedError(EdgeError):
    """The caller gave up before there was an answer."""


class KeyStoreError(EdgeError):
    """The key file cannot be read or made, or others may read it."""


class OutboxError(EdgeError):
    """The outbox cannot do what was asked; what it holds already is still there."""


class OutboxBusyError(OutboxError):
    """Another process held the database for too long."""


class OutboxFullError(OutboxError):
    """The outbox has reached its limit, or the disk is full."""


class OutboxKeyError(OutboxError):
    """The outbox was written with another key."""


class OutboxCorruptError(OutboxError):
    """The database file is damaged, or is no outbox."""


class OutboxConflictError(OutboxError):
    """The request id is in the outbox already, with another content."""
