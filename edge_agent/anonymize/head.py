"""What a statistical model is to the anonymizer."""

from __future__ import annotations

from typing import Protocol

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span


class Head(Protocol):
    """A statistical model that finds spans. Threads share it."""

    def find(self, document: MatchText) -> list[Span]:
        """Spans of one text, with ``Step.NER``."""
