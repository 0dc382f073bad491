"""PERSON by where a name stands: at a bed, in a subject line, a column or a list, alone at the end of a letter, before a speaker's words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import (
    COMMON_NAMES,
    MEDICAL,
    ORDINARY,
    PARTICLES,
    STOP,
    TITLES,
    read_words,
)
from edge_agent.anonymize.recognizers.names import LATIN, read_name
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_BED = re.compile(r"(?<![a-z])(?:bed|room|rm|leito|quarto|cama) ?\d{1,4}[a-z]? ?[:-] ?")
_FOR = re.compile(r"(?<![a-z])for[ \n](?=[A-Z])", re.IGNORECASE)
_SUBJECT_LINE = re.compile(
    r"(?:^|(?<=\n))(?:subject|assunto|re|ref): ?(?:[a-z-]+ ){0,3}(?:for|of|on|de|da|do) ([a-z][a-z' ,.-]{3,40})(?=\n|$)"
)
_COLUMN = re.compile(rf"(?<=  )[{LATIN}'-]{{2,}}, [{LATIN}'-]{{2,}}(?: [{LATIN}]\.?)?(?=  |\n|$)")
_INITIAL = re.compile(
    rf"(?:^|(?<=[\n:;,(.-])|(?<=[\n:;,(.-] )|(?<=by )|(?<=and ))[A-ZÀ-Þ]\. ?(?:[A-ZÀ-Þ]\. ?)?[A-ZÀ-Þ][{LATIN}]+(?:[-'][{LATIN}]+)*"
)
_OPENING = re.compile(
    rf"(?:^|(?<=\n))([A-ZÀ-Þ][a-zà-ÿ'-]+ (?:[A-Z]\. )?[A-ZÀ-Þ][{LATIN}'-]+)(?= (?:may|will|is|was|has|had|presents?|presented|returns?|returned|underwent|reports?|denies|states|tolerated|seen|arrived|called|complains|evolui|refere|nega|foi|deu|esta)(?![a-z]))"
)
_CLOSING = re.compile(r"(?<=[.)!?]) {1,3}([A-Za-z]{2,3})(?=\s*$)")
_NICKNAME = re.compile(
    rf"(?<=[{LATIN}] )[(\"]{{1,2}}([A-ZÀ-Þ][a-zà-ÿ'-]+)[)\"]{{1,2}}(?: ([A-ZÀ-Þ][{LATIN}'-]+))?(?![{LATIN}])"
)
_SPECIES = read_words("species")
_ADDRESSED = re.compile(
    r"(?:^|(?<=\n))([A-Z][a-z]{2,}),(?= (?:I|we|please|could|can|would|will you|thanks) )"
)
_CAPITALS_BY = re.compile(
    r"(?<![A-Z])(?:NOTIFIED|SIGNED|READ|DICTATED|REPORTED|REVIEWED|VERIFIED|APPROVED|TRANSCRIBED|PERFORMED|ORDERED|REQUESTED|INTERPRETED|ASSINADO|LAUDADO|REALIZADO|SOLICITADO) (?:BY|POR) ([A-ZÀ-Þ][A-ZÀ-Þ'-]{2,})(?![A-Za-z])"
)
_CAPITALS_COMMA = re.compile(
    r"(?:^|(?<=\n))([A-ZÀ-Þ][A-ZÀ-Þ' -]{1,30}), ([A-ZÀ-Þ][A-ZÀ-Þ'-]+)(?: [A-ZÀ-Þ]\.?)?(?=  |\n|$| \d| \()"
)
_SURNAME_INITIAL = re.compile(
    r"(?<![A-Za-zÀ-ÿ'-])([A-ZÀ-Þ][A-ZÀ-Þ'-]{2,}), [A-Z]\.?(?= *(?:\n|$|[;|)]))"
)
_SIGNED = re.compile(r"(?<=\n)[ \t]*((?:[A-ZÀ-Þ][a-zà-ÿ'-]{2,})(?: [A-ZÀ-Þ][A-Za-zÀ-ÿ'-]+)?)\s*\Z")
_IN_LIST = re.compile(
    r"(?:^|(?<=\n))((?:(?:van|von|de|da|del|la|den|der|dos|al) )*[A-ZÀ-Þ][a-zà-ÿ'][A-Za-zÀ-ÿ'-]*(?: [A-ZÀ-Þ][A-Za-zÀ-ÿ'-]+)?) \d{1,3}[A-Z]? (?:-|:) "
)
_SPEAKER = re.compile(
    rf"(?:^|(?<=\n))(?:\[[^\]\n]{{1,30}}\] ?|\(?\d\d?:\d\d(?::\d\d)?\)? ?(?:-|–)? ?)?(?P<name>[{LATIN}][{LATIN}'.-]{{1,20}}(?: [{LATIN}][{LATIN}'.-]{{0,20}}){{0,2}}): (?=\S)"
)
_MAX_SPEAKERS = 40
_NO_NAMES = STOP | MEDICAL | TITLES
_PLAIN = _NO_NAMES | ORDINARY


def find_placed_persons(document: MatchText) -> Iterator[Span]:
    """Names in the places of a note where names stand."""
    yield from _capital_names(document)
    yield from _speakers(document)
    yield from _placed(document)


def _placed(document: MatchText) -> Iterator[Span]:
    """Names by where they stand: a bed, a subject line, a column, the first or last words of a note."""
    text, folded = document.text, document.folded
    for match in _BED.finditer(folded):
        end = read_name(document, match.end(), strict=True)
        if end > match.end() and folded[match.end() : end] not in MEDICAL:
            yield Span(match.end(), end, Entity.PERSON)
    for match in _FOR.finditer(text):
        end = read_name(document, match.end(), strict=True, wraps=True)
        words = folded[match.end() : end].split()
        if (
            len(words) > 1
            and words[0].strip(",.") not in MEDICAL
            and any(c.islower() for c in text[match.end() : end])
            and text[end : end + 2].strip(" ")[:1] in ("", ",", "(", ":", ";", ".", "\n", "<")
        ):
            yield Span(match.end(), end, Entity.PERSON)
    for match in _SUBJECT_LINE.finditer(folded):
        words = [w.strip(",.") for w in match[1].split()]
        if 2 <= len(words) <= 5 and not any(
            (w in STOP and w not in COMMON_NAMES and len(w) > 1 and w not in PARTICLES)
            or w in MEDICAL
            for w in words
        ):
            yield Span(match.start(1), match.end(1), Entity.PERSON)
    for match in _NICKNAME.finditer(text):
        if '"' not in match.group():
            continue
        for group in (1, 2):
            value = folded[match.start(group) : match.end(group)] if match[group] else "the"
            if value not in STOP and value not in MEDICAL:
                yield Span(match.start(group), match.end(group), Entity.PERSON)
    for pattern in (_COLUMN, _INITIAL, _OPENING):
        for match in pattern.finditer(text):
            words = [w.strip(",.") for w in folded[match.start() : match.end()].split()]
            if not any(
                (w in STOP and w not in COMMON_NAMES and len(w) > 1)
                or w in _SPECIES
                or (w in MEDICAL and pattern is not _INITIAL)
                for w in words
            ):
                yield Span(match.start(), match.end(), Entity.PERSON)
    closing = _CLOSING.search(text)
    if closing is not None:
        is_mixed = any(c.islower() for c in text) and any(c.isupper() for c in text)
        is_name = folded[closing.start(1) : closing.end(1)] not in _NO_NAMES
        if is_name and (closing[1].isupper() or not is_mixed):
            yield Span(closing.start(1), closing.end(1), Entity.PERSON)


def _capital_names(document: MatchText) -> Iterator[Span]:
    """Names in reports that are written in capitals, at the head of a line of a list of patients, where somebody is addressed, alone at the end of a letter."""
    text, folded = document.text, document.folded
    for match in _CAPITALS_BY.finditer(text):
        if folded[match.start(1) : match.end(1)] not in _PLAIN:
            yield Span(match.start(1), match.end(1), Entity.PERSON)
    for match in _CAPITALS_COMMA.finditer(text):
        if folded[match.start(2) : match.end(2)] not in _PLAIN:
            yield Span(match.start(), match.end(), Entity.PERSON)
    for match in _SURNAME_INITIAL.finditer(text):
        if folded[match.start(1) : match.end(1)] not in _PLAIN:
            yield Span(match.start(), match.end(), Entity.PERSON)
    for pattern in (_SIGNED, _ADDRESSED):
        for match in pattern.finditer(text):
            words = re.findall(r"[^\W\d_]+", folded[match.start(1) : match.end(1)])
            if not any(word in _PLAIN for word in words):
                yield Span(match.start(1), match.end(1), Entity.PERSON)
    for match in _IN_LIST.finditer(text):
        words = re.findall(r"[^\W\d_]+", folded[match.start(1) : match.end(1)])
        if not any(word in _PLAIN and word not in PARTICLES for word in words):
            yield Span(match.start(1), match.end(1), Entity.PERSON)


def _speakers(document: MatchText) -> Iterator[Span]:
    matches = list(_SPEAKER.finditer(document.text))[:_MAX_SPEAKERS]
    counts: dict[str, int] = {}
    for match in matches:
        name = document.folded[match.start("name") : match.end("name")]
        counts[name] = counts.get(name, 0) + 1
    for match in matches:
        start, end = match.span("name")
        name = document.folded[start:end]
        words = [word.strip(".") for word in name.split()]
        if any((w in STOP or w in MEDICAL) and w not in COMMON_NAMES and len(w) > 1 for w in words):
            continue
        timed = document.text[match.start()] in "[(0123456789"
        if counts[name] > 1 or timed:
            yield Span(start, end, Entity.PERSON)
