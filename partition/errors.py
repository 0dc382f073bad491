"""What can go wrong in what both ends compute, split by who must act.

PartitionError
 +-- TaskFileError            the operator corrects a task file
 +-- ModelStoreError          a model could not be had
 |    +-- UnknownModelError   nobody knows the name
 |    +-- NotFetchedError     every source failed, or none may be asked
 |    +-- WrongHashError      the bytes are not the model's
 +-- ModelFileError           a weights file is damaged or of a kind we do not read
 +-- ContextLengthError       the input is longer than the model's context
 +-- NeedPrefillError         a stage holds fewer positions than the caller believes
 +-- MemoryLimitError         it would not fit into the memory allowed
 +-- FrameError               a frame of VERIFY or SPLIT contradicts itself or the model
 +-- ActivationError          a frame of hidden states is damaged, or cannot be made
 +-- ProfileError             the operator measures again, or corrects a profile or prices file
 +-- CalibrationError         records from which nothing can be concluded
 +-- OversightError           the file that remembers audits and spending cannot be used
 +-- ManifestError            a release's manifest is malformed; its publisher corrects it
 +-- DeltaError               a delta is damaged or made for another file; fetch the whole one
"""

from __future__ import annotations


class PartitionError(Exception):
    """Root of the errors of this package; the message says what to do next."""


class TaskFileError(PartitionError):
    """A task file is missing or wrong; the message names file, line and key."""


class SettingsError(PartitionError):
    """A configuration file, key, value or variable is wrong; the message names it."""


class ModelStoreError(PartitionError):
    """A model could not be had from the store."""


class UnknownModelError(ModelStoreError):
    """No entry of that name; the message lists the names there are."""


class NotFetchedError(ModelStoreError):
    """Every source was tried and failed, or asking one was not allowed; the message names each."""


class WrongHashError(ModelStoreError):
    """A file's SHA-256 is not the one in models.toml."""


class ModelFileError(PartitionError):
    """A weights file is damaged, truncated, or of an architecture or format we do not read."""


class ContextLengthError(PartitionError):
    """The input has more tokens than the model's context holds."""


class NeedPrefillError(PartitionError):
    """A stage caches fewer positions than the caller's ``base_len``; send the prompt again."""


class MemoryLimitError(PartitionError):
    """The model and its caches would not fit into the memory that was allowed."""


class FrameError(PartitionError):
    """A frame of VERIFY or SPLIT contradicts itself, or is beyond the model's vocabulary or context."""


class ActivationError(PartitionError):
    """A frame of hidden states is damaged or hostile, or the states cannot be sent at all."""


class ProfileError(PartitionError):
    """A profile, workload or prices file is missing or wrong; the message names file and key."""


class CalibrationError(PartitionError):
    """The records are unusable: malformed, empty, or of several tasks without saying so."""


class ManifestError(PartitionError):
    """A release's manifest is too large, malformed, of an unknown schema, or names a path outside its folder."""


class DeltaError(PartitionError):
    """A delta is damaged, or made for another file than the one that is there."""


class OversightError(PartitionError):
    """The file of audits, alarms and spending cannot be used, or a task in it is not watched."""
