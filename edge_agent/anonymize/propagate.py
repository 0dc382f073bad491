"""Propagation: a name found once is found everywhere in the request, and so is every number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, MEDICAL, ORDINARY, PARTICLES, STOP, TITLES
from edge_agent.anonymize.recognizers.chinese_persons import COMPOUND
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity
from partition.text.fold import fold

_PART = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_HAN = re.compile(r"[\u4e00-\u9fff]{2,}")
_MIN_PART = 3
_MIN_VALUE = 4
_WHOLE = (
    Entity.ID,
    Entity.PHONE,
    Entity.EMAIL,
    Entity.URL,
    Entity.IP_ADDRESS,
    Entity.DATE,
    Entity.LOCATION,
    Entity.ORGANIZATION,
)
_MAX_VALUES = 2000
_AFTER_TITLE = re.compile(r"(?<![a-z])(?:dr|mr|mrs|ms|sr|sra|dra|prof|dona|seu|doctor)\.? $")


def propagate(documents: Sequence[MatchText], spans: Sequence[Iterable[Span]]) -> list[list[Span]]:
    """For each text, further places where something found in any of the texts stands."""
    values: dict[str, Entity] = {}
    from_addresses: set[str] = set()
    for document, found in zip(documents, spans, strict=True):
        for span in found:
            for value in _values(document, span):
                if len(values) < _MAX_VALUES:
                    values.setdefault(value, span.entity)
            if span.entity is Entity.EMAIL:
                from_addresses.update(_named_in(document.folded[span.start : span.end]))
    from_addresses -= values.keys()
    for value in sorted(from_addresses)[: _MAX_VALUES - len(values)]:
        values[value] = Entity.PERSON
    if not values:
        return [[] for _ in documents]
    alternatives = sorted(values, key=len, reverse=True)
    pattern = re.compile("|".join(_bordered(value) for value in alternatives))
    return [list(_places(document, pattern, values, from_addresses)) for document in documents]


def _named_in(address: str) -> Iterator[str]:
    """The words of ``hollis.wyndham@...`` that can only be names."""
    for part in _PART.findall(address.partition("@")[0]):
        if len(part) >= _MIN_VALUE and not (part in ORDINARY or part in STOP or part in MEDICAL):
            yield part


def _values(document: MatchText, span: Span) -> Iterator[str]:
    value = re.sub(r"\s+", " ", document.folded[span.start : span.end])
    if span.entity is Entity.PERSON:
        if len(value) >= _MIN_VALUE or _HAN.fullmatch(value):
            yield value
        for part in _PART.findall(value):
            if _HAN.match(part):
                if len(part) >= 2 and part not in COMPOUND:
                    yield part
            elif (
                len(part) >= _MIN_PART
                and part not in PARTICLES
                and part not in TITLES
                and (part not in STOP or part in COMMON_NAMES)
            ):
                yield part
    elif span.entity in _WHOLE and len(value) >= _MIN_VALUE and not value.isspace():
        if span.entity in (Entity.LOCATION, Entity.ORGANIZATION) and (
            value in STOP or value in MEDICAL
        ):
            return
        yield value


def _bordered(value: str) -> str:
    escaped = r"\s+".join(re.escape(word) for word in value.split(" "))
    left = r"(?<![a-z0-9])" if value[0].isascii() else ""
    right = r"(?![a-z0-9])" if value[-1].isascii() else ""
    return f"{left}{escaped}{right}"


def _places(
    document: MatchText,
    pattern: re.Pattern[str],
    values: dict[str, Entity],
    from_addresses: set[str],
) -> Iterator[Span]:
    text, folded = document.text, document.folded
    for match in pattern.finditer(folded):
        entity = values[re.sub(r"\s+", " ", match.group())]
        value = match.group()
        if value in from_addresses and not text[match.start()].isupper():
            continue  # "the radiology desk" beside radiology@...
        if (
            entity is Entity.PERSON
            and " " not in value
            and (value in COMMON_NAMES or value in MEDICAL)
        ):
            line = _line(text, match.start())
            in_capitals = not any(c.islower() for c in line)
            if (not text[match.start()].isupper() or in_capitals) and not _AFTER_TITLE.search(
                folded, max(0, match.start() - 10), match.start()
            ):
                continue
            if (
                value in MEDICAL
                and re.match(r"(?:'?s)? [a-z]+", folded[match.end() :])
                and re.match(
                    r"(?:'?s)? (?:disease|syndrome|sign|test|fracture|catheter|drain|lesion|cyst|scale|score)",
                    folded[match.end() :],
                )
            ):
                continue
        yield Span(match.start(), match.end(), entity, Step.PROPAGATED)


def _line(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)]


def stripped(value: str) -> str:
    """Letters and digits only, folded; for the look without separators."""
    return "".join(c for c in fold(value) if c.isalnum())
