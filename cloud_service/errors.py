"""What can go wrong in the cloud before anything is said on the wire, split by who must act.

CloudServiceError
 +-- ConfigError       the operator corrects the configuration
 +-- PkiError          the operator corrects keys and certificates
 +-- ModelLoadError    the model cannot be served
 +-- StateStoreError   the database or its key cannot be used

What a caller is told on the wire is :mod:`protos.errors`.
"""

from __future__ import annotations


class CloudServiceError(Exception):
    """Root of the errors of this package; the message says what to do next."""


class ConfigError(CloudServiceError):
    """A key, value, variable or flag is wrong; the message names it."""


class PkiError(CloudServiceError):
    """Keys or certificates are missing, unreadable, or would be overwritten."""


class ModelLoadError(CloudServiceError):
    """The model's files cannot be read, or it is of a kind that is not served."""


class StateStoreError(CloudServiceError):
    """The state database or its master key cannot be used."""
