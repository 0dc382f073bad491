"""Values that are known before the text is read: the DICOM header's and the request's own. The cheapest recall there is."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText, align
from edge_agent.anonymize.lexicon import COMMON_NAMES, PARTICLES, STOP
from edge_agent.anonymize.placeholders import is_placeholder
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity, KnownValue
from partition.text.fold import fold
from partition.text.months import MONTHS

_PART = re.compile(r"[^\W\d_]+|[0-9]+")
_MONTHS = tuple([fold(name) for name in names] for names in MONTHS.values())
_FUZZY_LETTERS = 6  # one edit is allowed in a name part of so many letters or more
_MIN_CODE = 4
_SEPARATORS = r"[ ./_\-^,]{0,3}"


def find_known(document: MatchText, known: tuple[KnownValue, ...]) -> Iterator[Span]:
    """Every writing of the known values that stands in the text."""
    for item in known:
        value = align(item.value).text.strip()
        if len(value) < 2 or is_placeholder(value):
            continue
        match item.entity:
            case Entity.PERSON:
                yield from _person(document, value)
            case Entity.DATE:
                yield from _matches(document, _date_pattern(value), Entity.DATE)
            case _:
                yield from _matches(document, _code_pattern(value), item.entity)


def _person(document: MatchText, value: str) -> Iterator[Span]:
    for group in value.split("="):
        # Na and No are surnames; two letters are never searched for by themselves.
        parts = [
            part for part in _PART.findall(fold(group)) if len(part) < 3 or not is_placeholder(part)
        ]
        han = [part for part in parts if not part.isascii() and "\u4e00" <= part[0] <= "\u9fff"]
        if han:
            joined = "".join(han)
            yield from _matches(
                document, r" ?".join(map(re.escape, joined)), Entity.PERSON, borders=False
            )
            continue
        names = [part for part in parts if len(part) > 1 and part not in PARTICLES]
        if not names:
            continue
        word = "|".join(sorted(map(re.escape, {*names}), key=len, reverse=True))
        # Any order, with commas, carets and initials between.
        yield from _matches(
            document,
            rf"(?:{word})(?:[ ,.^\n-]{{1,3}}(?:[a-z]\.? ?)?(?:{word}))+(?: [a-z]\.?(?![a-z]))?",
            Entity.PERSON,
        )
        yield from _matches(
            document, rf"(?:{'|'.join(sorted({n[0] for n in names}))})\. ?(?:{word})", Entity.PERSON
        )
        for name in names:
            if len(name) >= 3:
                yield from _single(document, name)


def _single(document: MatchText, name: str) -> Iterator[Span]:
    pattern = _one_edit(name) if len(name) >= _FUZZY_LETTERS and name.isascii() else re.escape(name)
    for span in _matches(document, pattern, Entity.PERSON):
        found = document.folded[span.start : span.end]
        if found in STOP and found not in COMMON_NAMES:
            continue
        if name in COMMON_NAMES and not document.text[span.start].isupper():
            continue
        yield span


def _one_edit(name: str) -> str:
    """The name with one letter wrong, missing, or too many; the first letter is right."""
    forms = [re.escape(name)]
    for index in range(1, len(name)):
        head, tail = re.escape(name[:index]), re.escape(name[index + 1 :])
        forms.append(f"{head}[a-z]?{tail}")
        forms.append(f"{head}[a-z]{re.escape(name[index:])}")
    return f"(?:{'|'.join(forms)})"


def _date_pattern(value: str) -> str:
    digits = re.sub(r"\D", "", value)
    try:
        day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return re.escape(fold(value))
    y, m, d = day.year, day.month, day.day
    year, short, month, dom = str(y), f"{y % 100:02d}", f"0?{m}", f"0?{d}"
    s = r" ?[-/. ] ?"
    names = "|".join(rf"{language[m - 1]}|{language[m - 1][:3]}\.?" for language in _MONTHS)
    return (
        rf"(?:{year}{m:02d}{d:02d}|{year}{s}{month}{s}{dom}|{month}{s}{dom}{s}(?:{year}|{short})|{dom}{s}{month}{s}(?:{year}|{short})|{d:02d}{m:02d}{year}|{m:02d}{d:02d}{year}"
        rf"|(?:{names}) ?{dom}(?:st|nd|rd|th)?,? ?{year}|{dom}(?:st|nd|rd|th)?(?: of| de|-)? ?(?:{names})(?:,| de|-)? ?{year}|{year} ?年 ?{month} ?月 ?{dom} ?[日号]?)"
    )


def _code_pattern(value: str) -> str:
    characters = [c for c in fold(value) if c.isalnum()]
    if len(characters) < _MIN_CODE or not any(c.isdigit() for c in characters):
        return re.escape(fold(value))
    stripped = "".join(characters).lstrip("0")
    if len(stripped) >= _MIN_CODE:  # leading zeros come and go
        return "0*" + _SEPARATORS.join(map(re.escape, stripped))
    return _SEPARATORS.join(map(re.escape, characters))


def _matches(
    document: MatchText, pattern: str, entity: Entity, *, borders: bool = True
) -> Iterator[Span]:
    border = rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])" if borders else pattern
    for match in re.finditer(border, document.folded):
        yield Span(match.start(), match.end(), entity, Step.KNOWN)
