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
 +-- AnonymizationError     the request stays on the device; names the stage and the kind of identifier, never a value
 |    +-- PipelineUnavailableError    the operator pulls a language pipeline that is missing or has the wrong hash
 |    +-- UnsupportedLanguageError    the caller names en, pt or zh
 |    +-- TextTooLongError            the caller sends less text
 |    +-- AnonymizerTimeoutError      it took too long
 |    +-- TooManyIdentifiersError     more surrogates of one kind than there are numbers
 |    +-- ResidualIdentifierError     the second look still saw an identifier
 |    +-- RecognizerFailedError       a step raised, or gave offsets outside the text
 +-- VaultError             a vault is wiped, or sealed for another key or request

What the cloud says is another tree: :mod:`protos.errors`.
"""

from __future__ import annotations

from edge_agent.flow import Entity


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


class AnonymizationError(EdgeError):
    """The request may not leave the device.

    Attributes:
        stage: The step that failed, such as ``residual``.
        entity: The kind of identifier concerned, where there is one.
    """

    def __init__(self, message: str, *, stage: str, entity: Entity | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.entity = entity


class PipelineUnavailableError(AnonymizationError):
    """A language pipeline is missing, or not the one that was pinned."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the anonymizer's pipeline {name} cannot be loaded; run: edge-agent models pull {name}",
            stage="load",
        )


class UnsupportedLanguageError(AnonymizationError):
    """No pipeline for the language."""

    def __init__(self) -> None:
        super().__init__(
            "the anonymizer does not know this language; name en, pt or zh", stage="language"
        )


class TextTooLongError(AnonymizationError):
    """More text than the anonymizer takes."""

    def __init__(self, max_characters: int) -> None:
        super().__init__(
            f"the text has more than {max_characters} characters; send it in parts", stage="limit"
        )


class AnonymizerTimeoutError(AnonymizationError):
    """The time limit passed before the text was safe."""

    def __init__(self, stage: str) -> None:
        super().__init__(
            f"anonymizing took too long, at {stage}; send less text or raise timeout_s", stage=stage
        )


class TooManyIdentifiersError(AnonymizationError):
    """More identifiers of one kind than surrogates have numbers."""

    def __init__(self, entity: Entity) -> None:
        super().__init__(
            f"the text holds more identifiers of kind {entity} than one request may; send it in parts",
            stage="surrogates",
            entity=entity,
        )


class ResidualIdentifierError(AnonymizationError):
    """The residual scan still sees an identifier after one repair."""

    def __init__(self, entity: Entity | None) -> None:
        kind = f"of kind {entity} " if entity else ""
        super().__init__(
            f"an identifier {kind}may still stand in the text; it stays on the device",
            stage="residual",
            entity=entity,
        )


class RecognizerFailedError(AnonymizationError):
    """A step of the anonymizer raised, or gave offsets outside the text."""

    def __init__(self, stage: str) -> None:
        super().__init__(
            f"the anonymizer failed at {stage}; the request stays on the device", stage=stage
        )


class VaultError(EdgeError):
    """A vault cannot be used or opened; the message says what to do."""
