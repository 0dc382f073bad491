"""The residual scan: a second look at the text with everything found blotted out. What it sees has been missed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText, fold
from edge_agent.anonymize.known_values import find_known
from edge_agent.anonymize.propagate import stripped
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.registry import Recognizer, recognize
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity, KnownValue

_RUN = re.compile(r"(?<![\d.,])\d{7,}(?![\d]|[.,]\d)")
_CATALOGUE = re.compile(r"(?:lot|lote|batch|ref|model|modelo|catalog|批号|型号)[a-z .:#=-]{0,8}$")
_SCATTERED = re.compile(r"(?<!\d)(?:\d[ .\-_/]{1,3}){6,}\d(?!\d)")
_MIN_DIGITS = 6
_MIN_LETTERS = 8


def find_residual(
    masked: MatchText,
    originals: list[tuple[Entity, str]],
    known: tuple[KnownValue, ...],
    recognizers: tuple[Recognizer, ...],
) -> Iterator[Span]:
    """What still looks like an identifier, and originals that still stand somewhere, with or without separators."""
    for span in (*find_known(masked, known), *recognize(masked, recognizers)):
        if any(c.isalnum() for c in masked.text[span.start : span.end]):
            yield span
    for match in _RUN.finditer(masked.folded):
        if not follows_unit(masked.folded, match.end()) and not _CATALOGUE.search(
            masked.folded, max(0, match.start() - 16), match.start()
        ):
            yield Span(match.start(), match.end(), Entity.ID)
    for match in _SCATTERED.finditer(masked.folded):
        yield Span(match.start(), match.end(), Entity.ID)
    yield from _originals(masked, originals)


def _originals(masked: MatchText, originals: list[tuple[Entity, str]]) -> Iterator[Span]:
    letters = [(index, c) for index, c in enumerate(masked.folded) if c.isalnum()]
    dense = "".join(c for _, c in letters)
    for entity, original in originals:
        if entity in (Entity.AGE, Entity.DATE):
            continue
        value = stripped(original)
        digits = sum(c.isdigit() for c in value)
        least = _MIN_DIGITS if digits >= _MIN_DIGITS - 1 else _MIN_LETTERS
        if len(value) < least or (
            entity in (Entity.LOCATION, Entity.ORGANIZATION)
            and not digits
            and len(value) < 2 * _MIN_LETTERS
        ):
            continue
        position = dense.find(value)
        while position >= 0:
            start, end = letters[position][0], letters[position + len(value) - 1][0] + 1
            # Letters that happen to run together over a blotted stretch or many words are no second mention.
            if (
                end - start <= 2 * len(value)
                and "\u25a0" not in masked.text[start:end]
                and _stands_alone(masked, start, end, digits)
            ):
                yield Span(start, end, entity, Step.PROPAGATED)
            position = dense.find(value, position + 1)


def _stands_alone(masked: MatchText, start: int, end: int, digits: int) -> bool:
    if digits:
        return not (
            masked.folded[start - 1 : start].isdigit() or masked.folded[end : end + 1].isdigit()
        )
    return (
        fold(masked.text[start - 1 : start]).isalpha() is False
        and fold(masked.text[end : end + 1]).isalpha() is False
    )
