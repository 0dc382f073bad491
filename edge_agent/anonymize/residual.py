"""The residual scan: a second look at the text with everything found blotted out. What it sees has been missed.

It shares no pattern with the recognizers and reads no context: it knows the bare forms that nothing but an identifier has, so
that an error of the first look is not made twice. It takes a tenth of the first look's time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.known_values import find_known
from edge_agent.anonymize.lexicon import COMMON_NAMES, MEDICAL, STOP, TITLES
from edge_agent.anonymize.propagate import stripped
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity, KnownValue
from partition.text.fold import fold

_RUN = re.compile(r"(?<![\d.,])\d{7,}(?![\d]|[.,]\d)")
_CATALOGUE = re.compile(r"(?:lot|lote|batch|ref|model|modelo|catalog|批号|型号)[a-z .:#=-]{0,8}$")
_SCATTERED = re.compile(r"(?<!\d)(?:\d[ .\-_/]{1,3}){6,}\d(?!\d)")
_MONTHS = (
    "jan(?:uary|eiro)?|feb(?:ruary)?|fev(?:ereiro)?|mar(?:ch|co)?|apr(?:il)?|abr(?:il)?|may|maio?|june?|junho|july?|julho|aug(?:ust)?|ago(?:sto)?|"
    "sep(?:tember|t)?|set(?:embro)?|oct(?:ober)?|out(?:ubro)?|nov(?:ember|embro)?|dec(?:ember)?|dez(?:embro)?"
)
_YEAR = r"(?:19|20)\d\d"
_FORMS = re.compile(
    r"(?P<EMAIL>[a-z0-9._%+-]+ ?@ ?[a-z0-9-]+(?:\.[a-z0-9-]+)+)"
    r"|(?P<URL>https?://[^\s\u25a0]+|(?<![a-z0-9])www\.[^\s\u25a0]+)"
    rf"|(?P<DATE>(?<!\d){_YEAR}[-/]\d\d?[-/]\d\d?(?!\d)|(?<!\d)\d\d?[/-]\d\d?[/-]{_YEAR}(?!\d)|(?<![a-z\d])\d\d?(?:st|nd|rd|th)? (?:de |of )?(?:{_MONTHS})\.?,? (?:de )?{_YEAR}(?!\d)"
    rf"|(?<![a-z])(?:{_MONTHS})\.? \d\d?(?:st|nd|rd|th)?, ?{_YEAR}(?!\d)|{_YEAR} ?年 ?\d\d? ?月(?: ?\d\d? ?[日号])?)"
    r"|(?P<ID>(?<![\d.-])\d{3}[- ]\d\d[- ]\d{4}(?![\d-])|(?<![\d.])\d{3}\.\d{3}\.\d{3}-\d\d(?!\d)|(?<!\d)[1-9]\d{16}[\dx](?![\da-z]))"
    r"|(?P<PHONE>(?<![\d.])\(\d\d\d?\) ?9?\d{3,4}[- ]\d{4}(?!\d)|(?<![\d+])\+\d{1,3}[ -]?(?:\d[ -]?){8,12}(?!\d)|(?<![\d.])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d.]))"
    r"|(?P<caret>[a-z]{2,}\^[a-z]{2,}[a-z^ ]*)"
)
# In the text with its capitals: a title, a greeting or the word "patient" with a capitalised word behind.
_TITLED = re.compile(
    r"(?:\b(?:Dr|Dra|Mr|Mrs|Ms|Sr|Sra|Prof|DR|MR|MRS|MS)\.? |(?:\b[Pp]atient(?: [Nn]ame)?|\b[Pp]aciente|\b[Nn]ome|\b[Nn]ame): ?)"
    r"(?P<name>[A-ZÀ-Þ][A-Za-zÀ-ÿ'-]{2,}(?:,? [A-ZÀ-Þ][A-Za-zÀ-ÿ'-]+){0,2})"
)
_ORDINARY = (STOP | MEDICAL | TITLES) - COMMON_NAMES
_MIN_DIGITS = 6
_MIN_LETTERS = 8


# What is left to see in a masked text, from the originals that were found (with their entities) and the known values.
SecondLook = Callable[[MatchText, list[tuple[Entity, str]], tuple[KnownValue, ...]], Iterable[Span]]


def find_residual(
    masked: MatchText,
    originals: list[tuple[Entity, str]],
    known: tuple[KnownValue, ...],
) -> Iterator[Span]:
    """What still looks like an identifier, and originals that still stand somewhere, with or without separators."""
    for span in (*find_known(masked, known), *_forms(masked)):
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


def _forms(masked: MatchText) -> Iterator[Span]:
    """Bare forms of identifiers, and names where only a name may stand."""
    for match in _FORMS.finditer(masked.folded):
        assert match.lastgroup is not None
        if match.lastgroup == "caret":
            entity = Entity.PERSON
        else:
            entity = Entity[match.lastgroup]
            if entity is Entity.PHONE and follows_unit(masked.folded, match.end()):
                continue
        yield Span(match.start(), match.end(), entity)
    for match in _TITLED.finditer(masked.text):
        words = fold(match["name"]).replace(",", "").split()
        if not any(word in _ORDINARY for word in words):
            yield Span(match.start("name"), match.end("name"), Entity.PERSON)


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
