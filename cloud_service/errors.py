"""What can go wrong in the cloud before anything is said on the wire, split by who must act.

CloudServiceError
 +-- PkiError          the operator corrects keys and certificates
 +-- ModelLoadError    the model cannot be served
 +-- StateStoreError   the database or its key cannot be used
 +-- TenantError       a tenant cannot be added, changed or found
 +-- RepositoryError   a release cannot be signed, staged or published
 +-- ReleaseKeyError   a signing key or signature file cannot be used
 +-- RolloutError      a rollout cannot go on as it was asked to

What a caller is told on the wire is :mod:`protos.errors`.
"""

from __future__ import annotations


class CloudServiceError(Exception):
    """Root of the errors of this package; the message says what to do next."""


class PkiError(CloudServiceError):
    """Keys or certificates are missing, unreadable, or would be overwritten."""


class ModelLoadError(CloudServiceError):
    """The model's files cannot be read, or it is of a kind that is not served."""


class StateStoreError(CloudServiceError):
    """The state database or its master key cannot be used."""


class RepositoryError(CloudServiceError):
    """A release cannot be signed, staged or published; the message says which step is missing."""


class ReleaseKeyError(CloudServiceError):
    """A signing key, public key or signature file is missing, damaged, or would be overwritten."""


class RolloutError(CloudServiceError):
    """A rollout cannot begin, advance or go back as it was asked to."""


class TenantError(CloudServiceError):
    """A tenant cannot be added, changed or found as it was asked for."""
