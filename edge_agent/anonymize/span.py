"""A stretch of text that is an identifier, and which step of the pipeline found it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_agent.flow import Entity


class Step(enum.IntEnum):
    """Who found a span; the smaller number wins between spans of one length."""

    KNOWN = 0  # a value of the DICOM header or of the request's own list
    STRUCTURE = 1  # a label, tag or field says what it is
    RECOGNIZER = 2  # a pattern, with a checksum where there is one
    NER = 3  # a statistical model alone; the only step that the veto may overrule
    PROPAGATED = 4  # found elsewhere in the request


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``[start, end)`` of a text, code points."""

    start: int
    end: int
    entity: Entity
    step: Step = Step.RECOGNIZER

    @property
    def length(self) -> int:
        """Number of code points."""
        return self.end - self.start

    def overlaps(self, other: Span) -> bool:
        """Whether the two share a character."""
        return self.start < other.end and other.start < self.end
