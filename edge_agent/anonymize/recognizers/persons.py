"""PERSON: after a title, a relation, a greeting; before a credential or an age; in DICOM order."""

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
    r"(?<![a-z])(?:mother|father|mom|mum|dad|son|daughter|wife|husband|spouse|partner|brother|sister|niece|nephew|aunt|uncle|cousin|grandmother|grandfather|grandson|granddaughter|friend|neighbor|neighbour|fiancee?|girlfriend|boyfriend|guardian|caregiver|carer|roommate|baby (?:boy|girl)|infant|twin|stepmother|stepfather|grandma|grandpa|granny|auntie|ex-(?:wife|husband)|(?:mother|father|son|daughter|brother|sister)-in-law|"
    r"mae|pai|filh[oa]|espos[oa]|marido|irma|irmao|sobrinh[oa]|ti[oa]|prim[oa]|av[oó]|net[oa]|amig[oa]|vizinh[oa]|cuidador[a]?|acompanhante|noiv[oa]|namorad[oa]|companheir[oa]|cunhad[oa]|sogr[oa]|genro|nora|ex-(?:marido|mulher|espos[oa])|madrinha|padrinho|entead[oa]|conjuge)"
    r"(?:,? (?:is|of|named|called|d[aeo]|chamad[oa]))?[ ,:(\n]{1,2}"
)
_GREETING = re.compile(
    r"(?:^|(?<=\n)|(?<=\. )|(?<=: ))(?:reminder:|lembrete:|attention:|message:|dear|hi|hello|hey|good (?:morning|afternoon|evening)|thanks|thank you|regards|cheers|best|prezad[oa]|car[oa]|ola|oi|bom dia|boa tarde|boa noite|obrigad[oa]|abracos|att|atenciosamente)(?: again)?[ ,]{1,2}"
)
_INTRODUCED = re.compile(
    r"(?<![a-z])(?:my name is|this is|i am|i'm|name is|should read|not read|named|called|a\.?k\.?a\.?|also known as|goes by|nee|maiden name|discussed with|spoke with|spoke to|discussed w/|d/w|spoke w/|seen by|signed by|reported by|referred by|read back by|it's|meu nome e|aqui e(?: [oa])?|sou [oa]?|chama-se|falei com|fala com|quem fala e|deve ler-se|leia-se|comunicado a[o]?|informado a[o]?)[ :\"]{1,2}"
)
_STUDY_OF = re.compile(
    r"(?<![a-z])(?:exames?|laudo|resultado|consulta|tomografia|ressonancia|ultrassonografia|obstetrica|radiografia|mamografia|biopsia|encaminhamento|imagens|alta|visita|prontuario|caso|avaliacao|acompanhamento|guarda|ficha|receita|cirurgia|"
    r"images|scans?|films|study|studies|mri|ct|x-ray|report|results?|chart|appointment|letter|referral|follow-up|care|check|evaluation|history|handoff|handover|sign-?out|consent|records?|labs|pictures)"
    r"(?: [a-z]+)? (?:d[aeo]|of|for|on)[ \n]"
)
_NO_NAMES = STOP | MEDICAL | TITLES
_MAX_ABBREVIATION = 3  # letters; longer words in capitals after "mother" are names
_DOTTED_INITIALS = re.compile(r"(?<![A-Za-z0-9.])(?:[A-Z]\.){2,3}(?![A-Za-z0-9])")
_DOTTED_WORDS = read_words("dotted_abbreviations")
_SUBJECT = re.compile(
    r"(?<![A-Za-z])(?i:patient|pt|pct|pcte|paciente|subject|participant|participante|proband|probando|donor)[ :]{1,2}((?:[A-Z]\.){2,3}|[A-Z]{2,3}(?=[.,;)]|$|\n| [a-z])|[a-z]{2,3}(?=, ?\d))"
)
_AGE_BEHIND = re.compile(
    r"(?:,? ?\(|,? |,)(?:age |aged |de )?\d{1,3}(?: ?(?:anos|years?|yrs?|y\.?/?o|yo[mf]?|ans|months?|meses|semanas)(?![a-z])| ?[maf](?=[,.;) ]|$))| g\d{1,2} ?p\d{1,2}(?![a-z0-9])"
)
_SEGMENT = re.compile(r"[:;\n(|\]\[/\"]|(?<=[a-z]{3})\. |, ")
_REACH = 60  # characters before an age in which the name may begin
_CREDENTIAL = re.compile(
    rf"((?:[A-ZÀ-Þ][{LATIN}'.-]*[ \n]){{1,3}}[A-ZÀ-Þ][{LATIN}'-]+)(?:, ?| )(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|PA(?:-C)?|CNM|CRNA|LPN|CNA|MSW|LCSW|Ph\.?D\.?|PharmD|RPh|DPT|BSN|APRN|FACS|FRCR|FRCS|MRCP|DDS|DMD|MBBS|RT|RDMS)(?![{LATIN}])"
)
_CARET = re.compile(
    rf"(?<![{LATIN}0-9^])[{LATIN}][{LATIN}' .-]{{0,40}}(?:\^[{LATIN}.' -]{{0,40}}){{1,4}}(?:=[\u4e00-\u9fff{LATIN}^ ]{{1,40}}){{0,2}}"
)


def find_persons(document: MatchText) -> Iterator[Span]:
    """Names beside words that only names stand beside."""
    yield from _titled(document)
    yield from _announced(document)
    text, folded = document.text, document.folded
    for match in _DOTTED_INITIALS.finditer(text):
        if folded[match.start() : match.end()] not in _DOTTED_WORDS:
            yield Span(match.start(), match.end(), Entity.PERSON)
    for match in _CREDENTIAL.finditer(text):
        start = match.start(1)
        while start < match.end(1):
            word = folded[start : match.end(1)].split()[0].strip(".,")
            if len(word) == 1 or (word not in STOP and word not in MEDICAL):
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
    yield from _before_age(document)
    for match in _SUBJECT.finditer(text):
        if folded[match.start(1) : match.end(1)] not in _NO_NAMES:
            yield Span(match.start(1), match.end(1), Entity.PERSON)


def _before_age(document: MatchText) -> Iterator[Span]:
    """``geriatria: thomas siqueira, 96 anos``: who has an age is a person, in any case of letters."""
    text, folded = document.text, document.folded
    for match in _AGE_BEHIND.finditer(folded):
        floor = max(0, match.start() - _REACH)
        for border in _SEGMENT.finditer(folded, floor, match.start()):
            floor = border.end()
        tokens = list(TOKEN.finditer(text, floor, match.start()))
        start, count = match.start(), 0
        for token in reversed(tokens):
            word = folded[token.start() : token.end()].rstrip(".")
            gap = text[token.end() : start]
            if (
                gap.strip(" ")
                or (
                    word in STOP
                    and word not in COMMON_NAMES
                    and len(word) > 1
                    and word not in PARTICLES
                )
                or word in TITLES
                or (word in MEDICAL and count == 0 and not token.group()[0].isupper())
            ):
                break
            if word in PARTICLES and count == 0:
                break
            start = token.start()
            count += word not in PARTICLES
        while start < match.start() and folded[start : match.start()].split(" ")[0] in PARTICLES:
            start += len(folded[start : match.start()].split(" ")[0]) + 1
        capital = text[start : start + 1].isupper()
        if (
            count >= 2
            or (count == 1 and capital and any(c.islower() for c in text[start : match.start()]))
        ) and count <= 6:
            yield Span(start, match.start(), Entity.PERSON)


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
    for pattern in (_RELATION, _GREETING, _INTRODUCED, _STUDY_OF):
        for match in pattern.finditer(folded):
            position = match.end()
            token = TOKEN.match(text, position)
            if token is None:
                continue
            if not token.group()[0].isupper():
                if pattern is _RELATION and _is_lower_name(document, position, token.end()):
                    yield Span(position, token.end(), Entity.PERSON)
                if pattern is _GREETING and _is_greeted(document, position, token.end()):
                    yield Span(position, token.end(), Entity.PERSON)
                continue
            if (upper and pattern is not _GREETING) or (
                token.group().isupper()
                and len(token.group()) > 2
                and not upper
                and not (
                    pattern is _RELATION
                    and len(token.group()) > _MAX_ABBREVIATION
                    and document.folded[position : token.end()] not in _NO_NAMES
                )
            ):
                continue
            end = read_name(
                document,
                position,
                strict=True,
                comma=pattern is not _GREETING,
                wraps=pattern is _RELATION,
            )
            if pattern is _STUDY_OF and (
                " " not in text[position:end]
                or folded[position:end].split()[0].strip(".,") in COMMON_NAMES
            ):
                continue  # "images of Morison's pouch"
            if end > position:
                yield Span(position, end, Entity.PERSON)


def _is_lower_name(document: MatchText, start: int, end: int) -> bool:
    """``lives with her niece nkechi.``: no word that reports use, in a line without capitals."""
    word = document.folded[start:end].rstrip(".")
    line_start = document.text.rfind("\n", 0, start) + 1
    line_end = document.text.find("\n", end)
    line = document.text[line_start : line_end if line_end >= 0 else len(document.text)]
    return (
        len(word) > _MAX_ABBREVIATION
        and word not in _NO_NAMES
        and word not in ORDINARY
        and not any(c.isupper() for c in line)
    )


def _is_greeted(document: MatchText, start: int, end: int) -> bool:
    """``bom dia, thomas``: a word that is no other, up to the end of its phrase."""
    word = document.folded[start:end]
    follows = document.text[end : end + 1]
    return follows in ("", ",", "\n", "!", ".", "?") and len(word) > 2 and word not in _NO_NAMES
