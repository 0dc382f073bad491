"""The anonymizer as a recognizer of Presidio, for who has an ``AnalyzerEngine`` already. Needs the package ``presidio-analyzer``.

    registry = RecognizerRegistry(recognizers=[AnonymizerRecognizer(anonymizer, language="en")], supported_languages=["en"])

A text that may not leave raises :class:`AnonymizationError` here too: Presidio then gives no result instead of an incomplete one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from presidio_analyzer import EntityRecognizer, RecognizerResult

from edge_agent.flow import Entity
from edge_agent.vault import Vault

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymizer import Anonymizer


class AnonymizerRecognizer(EntityRecognizer):
    """Everything that the anonymizer finds, under its ten entity names. Threads may share it."""

    def __init__(self, anonymizer: Anonymizer, *, language: str) -> None:
        """Wrap an open anonymizer.

        Args:
            anonymizer: With the pipeline of the language.
            language: ``en``, ``pt`` or ``zh``; Presidio wants one recognizer for each.
        """
        self._anonymizer = anonymizer
        super().__init__(
            supported_entities=[entity.value for entity in Entity],
            supported_language=language,
            name=f"Anonymizer-{language}",
            version=anonymizer.version[:12],
        )

    def load(self) -> None:
        """Nothing: the anonymizer is open."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[Any]:
        """Spans of one text, each with score 1: what is found is replaced, however sure it is.

        Raises:
            AnonymizationError: The text may not leave the device.
        """
        outcome = self._anonymizer.replace((text,), Vault(), language=self.supported_language)
        return [
            RecognizerResult(entity_type=row.entity.value, start=row.start, end=row.end, score=1.0)
            for row in outcome.replacements[0]
            if not entities or row.entity.value in entities
        ]
