"""PERSON in small letters, as people dictate and chat: where a phrase says that a name stands, and the word is no ordinary one.

Only in lines without a name in capitals elsewhere: there small letters say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import (
    CAPITAL_INSIDE,
    COMMON_NAMES,
    MEDICAL,
    ORDINARY,
    PARTICLES,
    STOP,
    TERM_ENDING,
    TITLES,
)
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_NAME = r"[a-zà-ÿ][a-zà-ÿ'-]+"
_RELATIVE = (
    "wife|husband|mother|father|mum|mom|dad|son|daughter|sister|brother|aunt|uncle|niece|nephew|cousin|grandson|granddaughter|grandmother|grandfather|partner|"
    "friend|neighbour|neighbor|roommate|carer|caregiver|fiancee?|nurse|colleague|esposa|marido|filha|filho|irma|irmao|tia|tio|sobrinha|sobrinho|prima|primo|"
    "avo|neta|neto|nora|genro|cunhad[ao]|vizinh[ao]|amig[ao]|namorad[ao]|companheir[ao]|cuidadora?|enfermeir[ao]|colega"
)
_BEFORE = re.compile(
    rf"(?<![a-z])(?:(?:his|her|my|their|our|your|the|a|o|minha|meu|sua|seu) (?:{_RELATIVE})|(?:mae|pai|filh[ao]|irma|irmao|esposa|marido|avo) d[aeo]|"
    r"doctor|doctors|dr|drs|dra|mr|mrs|ms|miss|doutora?|dona|my name is|name is|this is|its|meu nome e|me chamo|aqui e [ao]|aqui e|sou [ao]|sou)\.? "
)
_CALLED = re.compile(
    r"(?<![a-z])(?:call|called|phone|phoned|ring|rang|paged?|spoke (?:to|with)|notified|informed|told|ask|asked|ligar p(?:ra|ara) [ao]?|liga(?:r)? p(?:ra|ara)|avisar|until|per) "
)
_AFTER = re.compile(
    r" (?:is an? \d{1,3}[- ]?(?:year|yr|y/?o)|date of birth|d\.?o\.?b\.?(?![a-z])|medical record|mrn(?![a-z])|born (?:on|in)|nascid[oa] (?:em|a)|data de nascimento|, \d{1,3} anos)"
)
_TOKEN = re.compile(_NAME)
_PLAIN = (ORDINARY | MEDICAL | STOP | TITLES) - COMMON_NAMES
_MAX_WORDS = 4


def find_spoken_names(document: MatchText) -> Iterator[Span]:
    """Names in small letters behind a relative, a title or a call, and before an age or a birth date."""
    folded = document.folded
    for match in _BEFORE.finditer(folded):
        end = _read(document, match.end())
        if end and document.text[match.start()].islower():
            yield Span(match.end(), end, Entity.PERSON)
    for match in _CALLED.finditer(folded):
        end = _read(document, match.end())
        if end and _first(document, match.end()) not in COMMON_NAMES:
            yield Span(match.end(), end, Entity.PERSON)
    for match in _AFTER.finditer(folded):
        start = _read_back(document, match.start())
        if start < match.start():
            yield Span(start, match.start(), Entity.PERSON)


def _first(document: MatchText, position: int) -> str:
    token = _TOKEN.match(document.folded, position)
    return token.group() if token else ""


def _read(document: MatchText, position: int) -> int:
    """The end of a name in small letters that begins here; 0 where none does."""
    text, folded = document.text, document.folded
    if not text[position : position + 1].islower() or _has_names(text, position):
        return 0
    end, count, named = 0, 0, False
    while count < _MAX_WORDS and (token := _TOKEN.match(folded, position)):
        word = token.group()
        particle = word in PARTICLES and len(word) > 1
        if not particle and (len(word) < 3 or _is_plain(word) or (named and word.endswith("ing"))):
            break
        if not particle:
            end, named = token.end(), True
        position, count = token.end() + 1, count + 1
        if folded[token.end() : token.end() + 1] != " ":
            break
    return end if named else 0


def _read_back(document: MatchText, end: int) -> int:
    """Where a name in small letters begins that ends here; ``end`` where none does."""
    text, folded = document.text, document.folded
    start = end
    line = (
        max(folded.rfind("\n", 0, end), folded.rfind(". ", 0, end), folded.rfind(": ", 0, end)) + 1
    )
    tokens = list(_TOKEN.finditer(folded, line, end))
    if _has_names(text, end):
        return end
    for token in reversed(tokens[-_MAX_WORDS:]):
        word = token.group()
        if folded[token.end() : start].strip() or not text[token.start()].islower():
            break
        if word in PARTICLES and start < end:
            continue
        if len(word) < 3 or _is_plain(word):
            break
        start = token.start()
    return start


def _is_plain(word: str) -> bool:
    return word in _PLAIN or TERM_ENDING.search(word) is not None


def _has_names(text: str, position: int) -> bool:
    """Whether the line writes names with capitals."""
    start, end = text.rfind("\n", 0, position) + 1, text.find("\n", position)
    return CAPITAL_INSIDE.search(text, start, end if end >= 0 else len(text)) is not None
