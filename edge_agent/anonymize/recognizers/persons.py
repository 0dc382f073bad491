"""PERSON: after a title, a relation, a greeting; before a credential; in DICOM order; as the speaker of a chat line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, MEDICAL, STOP
from edge_agent.anonymize.recognizers.names import LATIN, TOKEN, read_name
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_TITLE = re.compile(
    r"(?<![a-z0-9])(?:(?:dr|drs|mr|mrs|ms|mx|miss|prof|professor|doctor|nurse|sister|brother|father|rev|reverend|rabbi|pastor|chaplain|officer|sgt|sergeant|capt|captain|judge|hon|sir|madam|coach|"
    r"sr|sra|srta|dra|dona|d\.|seu|senhor|senhora|doutor|doutora|enf|enfa|enfermeir[oa]|tec|prof[ao]|eng|padre|pastor|delegad[oa]|cabo|sargento|dom)(?:\.|(?=[ \n]))[ \n]{0,2}){1,2}"
)
_TITLE_NEEDS_CAPITAL = frozenset(
    [
        "nurse",
        "sister",
        "brother",
        "father",
        "officer",
        "judge",
        "coach",
        "captain",
        "doctor",
        "miss",
        "dom",
        "seu",
        "senhor",
        "senhora",
        "enfermeira",
        "enfermeiro",
        "padre",
        "pastor",
        "cabo",
    ]
)
_RELATION = re.compile(
    r"(?<![a-z])(?:mother|father|mom|mum|dad|son|daughter|wife|husband|spouse|partner|brother|sister|niece|nephew|aunt|uncle|cousin|grandmother|grandfather|grandson|granddaughter|friend|neighbor|neighbour|fiancee?|girlfriend|boyfriend|guardian|caregiver|roommate|stepmother|stepfather|"
    r"mae|pai|filh[oa]|espos[oa]|marido|irma|irmao|sobrinh[oa]|ti[oa]|prim[oa]|av[oó]|net[oa]|amig[oa]|vizinh[oa]|cuidador[a]?|acompanhante|noiv[oa]|namorad[oa]|companheir[oa]|cunhad[oa])"
    r"(?:,? (?:is|named|called|d[aeo]|chamad[oa]))?[ ,:(\n]{1,2}"
)
_GREETING = re.compile(
    r"(?:^|(?<=\n)|(?<=\. )|(?<=: ))(?:dear|hi|hello|hey|good (?:morning|afternoon|evening)|thanks|thank you|regards|cheers|best|prezad[oa]|car[oa]|ola|oi|bom dia|boa tarde|boa noite|obrigad[oa]|abracos|att|atenciosamente)(?: again)?[ ,]{1,2}"
)
_INTRODUCED = re.compile(
    r"(?<![a-z])(?:my name is|this is|i am|i'm|name is|should read|not read|named|called|a\.?k\.?a\.?|also known as|goes by|nee|maiden name|discussed with|spoke with|spoke to|discussed w/|d/w|seen by|signed by|reported by|referred by|read back by|per|meu nome e|aqui e(?: [oa])?|sou [oa]?|chama-se|falei com|fala com|quem fala e|por|deve ler-se|leia-se|comunicado a[o]?|informado a[o]?)[ :\"]{1,2}"
)
_CREDENTIAL = re.compile(
    rf"((?:[A-ZÀ-Þ][{LATIN}'.-]*[ \n]){{1,3}}[A-ZÀ-Þ][{LATIN}'-]+)(?:, ?| )(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|PA(?:-C)?|CNM|CRNA|LPN|CNA|MSW|LCSW|Ph\.?D\.?|PharmD|RPh|DPT|BSN|APRN|FACS|FRCR|FRCS|MRCP|DDS|DMD|MBBS|RT|RDMS)(?![{LATIN}])"
)
_CARET = re.compile(
    rf"(?<![{LATIN}0-9^])[{LATIN}][{LATIN}' .-]{{0,40}}(?:\^[{LATIN}.' -]{{0,40}}){{1,4}}(?:=[\u4e00-\u9fff{LATIN}^ ]{{1,40}}){{0,2}}"
)
_SPEAKER = re.compile(
    rf"(?:^|(?<=\n))(?:\[[^\]\n]{{1,30}}\] ?|\(?\d\d?:\d\d(?::\d\d)?\)? ?(?:-|–)? ?)?(?P<name>[{LATIN}][{LATIN}'.-]{{1,20}}(?: [{LATIN}][{LATIN}'.-]{{0,20}}){{0,2}}): (?=\S)"
)
_MAX_SPEAKERS = 40


def find_persons(document: MatchText) -> Iterator[Span]:
    """Names in the places where only names stand."""
    yield from _titled(document)
    yield from _announced(document)
    text, folded = document.text, document.folded
    for match in _CREDENTIAL.finditer(text):
        start = match.start(1)
        while start < match.end(1):
            word = folded[start : match.end(1)].split()[0].strip(".,")
            if word not in STOP and word not in MEDICAL:
                break
            start += len(text[start : match.end(1)].split()[0]) + 1
        if start < match.end(1):
            yield Span(start, match.end(1), Entity.PERSON)
    if "^" in text:
        for match in _CARET.finditer(text):
            value = match.group()
            lead = re.match(rf"(?:[{LATIN}.']+[ :]+)*?(?=[{LATIN}'-]+\^)", value)
            start = match.start() + (
                lead.end()
                if lead and value.split("^")[0].count(" ") and not value.split("^")[0].isupper()
                else 0
            )
            end = match.start() + len(value.rstrip("^ .-='"))
            if not re.fullmatch(r"10\^.*|[a-z]\^.?", folded[start:end]):
                yield Span(start, end, Entity.PERSON)
    yield from _speakers(document)


def _titled(document: MatchText) -> Iterator[Span]:
    text, folded = document.text, document.folded
    for match in _TITLE.finditer(folded):
        position = match.end()
        token = TOKEN.match(text, position)
        if token is None:
            continue
        title = match.group().split()[-1].strip(".")
        capital = token.group()[0].isupper()
        if (
            title in _TITLE_NEEDS_CAPITAL
            and (not capital or (match.group().isupper() and token.group().isupper()))
            and title not in ("doctor", "dona", "nurse", "seu")
        ):
            continue
        end = read_name(
            document,
            position,
            strict=capital,
            max_tokens=6 if capital else 1,
            wraps=True,
            comma=False,
        )
        if (
            end == position
            and token.group()[0].isupper()
            and folded[position : token.end()].rstrip(".") in COMMON_NAMES
        ):
            end = token.end()
        if end > position and not (
            not capital and title in ("seu", "nurse") and folded[position:end] in STOP
        ):
            yield Span(position, end, Entity.PERSON)


def _announced(document: MatchText) -> Iterator[Span]:
    text, folded = document.text, document.folded
    upper = not any(c.islower() for c in text)
    for pattern in (_RELATION, _GREETING, _INTRODUCED):
        for match in pattern.finditer(folded):
            position = match.end()
            token = TOKEN.match(text, position)
            if (
                token is None
                or not token.group()[0].isupper()
                or (upper and pattern is not _GREETING)
                or (token.group().isupper() and len(token.group()) > 2 and not upper)
            ):
                continue
            if (
                folded[position : token.end()].rstrip(".") in COMMON_NAMES
                and pattern is _INTRODUCED
                and match.group().startswith(("per", "por"))
            ):
                continue
            end = read_name(
                document,
                position,
                strict=True,
                comma=pattern is not _GREETING,
                wraps=pattern is _RELATION,
            )
            if end > position:
                yield Span(position, end, Entity.PERSON)


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
