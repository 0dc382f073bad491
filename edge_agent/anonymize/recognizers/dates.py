"""DATE: anything finer than a year, in the usual writings of three languages; and the birth year of a person over 89."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_MONTH_EN = "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec"
_MONTH_PT = "janeiro|fevereiro|marco|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro|fev|abr|mai|ago|set|out|dez"
_MONTH = rf"(?:{_MONTH_EN}|{_MONTH_PT})\.?"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MON = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:1[89]\d\d|20\d\d|21\d\d)"
_SHORT_YEAR = r"'?\d\d"
_TIME = r"t?\d\d?:?\d\d(?::?\d\d(?:[.,]\d{1,6})?)?(?:z|[+-]\d\d:?\d\d)?"
_ORDINAL = r"(?:st|nd|rd|th|º|o|ª)?"
_B, _E = r"(?<![a-z0-9])(?<!\d[.,/-])", r"(?![0-9]|[a-z](?<![tz]))"
_DIGITS = re.compile(
    rf"(?<![a-z0-9.])(?<!\d[/-])(?:"
    rf"{_YEAR}([-/.]){_MON}\1{_DAY}(?:t{_TIME[2:]})?"
    rf"|(?:{_DAY}([-/.]){_MON}\2|{_MON}([-/.]){_DAY}\3)(?:{_YEAR}|\d\d)(?:t\d\d:\d\d(?::\d\d)?z?)?"
    r")(?![0-9]|[./-]\d|[a-z]{2})"
)
_SPACED = re.compile(
    rf"(?<![a-z0-9.,/-])(?:{_YEAR} ?[-/.] ?{_MON} ?[-/.] ?{_DAY}|{_DAY} ?/ ?{_MON} ?/ ?{_YEAR}|{_MON} ?/ ?{_DAY} ?/ ?{_YEAR}|{_DAY} - {_MON} - {_YEAR})(?![0-9/.-])"
)
_YEAR_MONTH = re.compile(
    rf"(?<![a-z0-9.,/-])(?:{_YEAR}[-/.](?:0[1-9]|1[0-2])|(?:0?[1-9]|1[0-2])[/-]{_YEAR})(?![0-9]|[./-]\d)"
)
_COMPACT = re.compile(
    r"(?<![a-z0-9.,])((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))((?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?(?:\.\d{1,6})?(?:[+-]\d{4})?)?(?![a-z0-9]|[.,]\d)"
)
_NAMED = re.compile(
    rf"{_B}(?:"
    rf"(?:{_MONTH}) ?(?:the )?{_DAY}{_ORDINAL}(?:(?: ?, ?| )(?:of )?{_YEAR}| ?, ?{_SHORT_YEAR})?(?![0-9:/%]|\.\d|-\d| ?(?:mg|ml|mcg|%))"  # March 5, 2024
    rf"|{_DAY}{_ORDINAL} ?(?:(?:day )?of |de |/|-|\.(?! ))? ?(?:{_MONTH})(?:(?: ?, ?| de | do | of | ?/ ?|-|\.| ){_YEAR}|(?:/|-| ){_SHORT_YEAR}(?![a-z0-9:.]))?(?![a-z])"  # 5 de março de 2024, 05-MAR-24
    rf"|{_YEAR}[- ](?:{_MONTH})[- ]{_DAY}"
    rf"|{_DAY}(?:{_MONTH})(?:{_YEAR}|\d\d)(?![0-9])"  # 05MAR2024
    rf"|(?:{_MONTH})(?: of | de | do |, ?|[ /-]){_YEAR}(?![0-9])"  # March 2024
    rf"|(?:{_MONTH})(?:[/-]| ?'){_SHORT_YEAR}(?![0-9a-z])"  # mar/24
    r")"
)
_NUMBER_WORDS = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|"
    "twentieth|twenty-first|twenty-second|twenty-third|twenty-fourth|twenty-fifth|twenty-sixth|twenty-seventh|twenty-eighth|twenty-ninth|thirtieth|thirty-first"
)
_WORDED = re.compile(
    rf"(?<![a-z])(?:(?:{_NUMBER_WORDS}) (?:day )?of (?:{_MONTH_EN})|(?:{_MONTH_EN}) (?:the )?(?:{_NUMBER_WORDS})"
    r"|primeiro de (?:" + _MONTH_PT + r"))(?:(?:,| de)? " + _YEAR + r")?(?![a-z])"
    r"|(?<![a-z])(?:christmas(?: eve| day)?|new year'?s (?:eve|day)|thanksgiving(?: day)?|easter(?: sunday| monday)?|independence day|labor day|memorial day|halloween|valentine'?s day)(?: (?:of )?"
    + _YEAR
    + r")?(?![a-z])"
    r"|(?<![a-z])(?:(?:on|by|since|until|from|before|after) the )("
    + _DAY
    + r"(?:st|nd|rd|th))(?= *(?:[,.;)\n]|$|at |and ))"
    r"|(?<![a-z])(?:no|ate o|desde o|do) dia (" + _DAY + r")(?! ?(?:de|/|\d|h|mg|ml))(?![0-9/])"
)
_CHINESE = re.compile(
    r"(?:(?:公元)?(?:1[89]|20|21)\d\d ?年|[〇零一二三四五六七八九]{4}年)(?:(?:农历|阴历)?(?:\d{1,2}|[正一二三四五六七八九十冬腊]{1,3}) ?月(?:份)?(?: ?(?:初|廿)?(?:\d{1,2}|[一二三四五六七八九十廿]{1,3}) ?[日号]?)?)"
    r"|(?<!\d)\d{1,2} ?月 ?\d{1,2} ?[日号]?(?![\d个])|(?:农历|阴历)?[正一二三四五六七八九十冬腊]{1,3}月(?:初|廿)?[一二三四五六七八九十]{1,3}[日号]?"
    r"|(?<=[本当上下每次该于至到月])(?:月)?\d{1,2} ?[日号](?=[上下中早晚凌入出住手行来在前后,。;)]|$)"
)
_CHINESE_SHORT = re.compile(r"(?<![\d年])\d\d年\d{1,2}月(?:\d{1,2}[日号])?")
# Month and day in digits: a date only where something says so, for 3/5 is also a grade of strength.
_PAIR = re.compile(
    r"(?<![a-z0-9./+-])(0?[1-9]|[12]\d|3[01])([/.-])(0?[1-9]|[12]\d|3[01])(?![0-9/]|[.,-]\d| ?%|/|[a-z])"
)
_PAIR_BEFORE = re.compile(
    r"(?:(?<![a-z])(?:on|by|since|before|after|until|till|til|from|through|thru|between|dated?|due|visits?|appt|appointment|scheduled|(?:re)?moved|removed|placed|seen|admitted|discharged|started|stopped|surgery|"
    r"week of|dob|born|exam|labs?|ct|mri|xr|cxr|return|follow-?up|f/u|(?:start|end|date|onset|day) of [a-z]+|starting|as of|effective|expires|last|next|no later than|today|yesterday|tomorrow|"
    r"monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|tues|wed|thu|thurs|fri|sat|sun|"
    r"em|dia|dias|desde|ate|retorno|data|marcad[oa] para|agendad[oa] para|segunda|terca|quarta|quinta|sexta|sabado|domingo|feira|"
    r"日期|于|自|至|到|预约|复查|时间)[ .,:(]{0,3}|\d\d?:\d\d(?: ?[ap]\.?m\.?)?,? |(?:^|\n)[ \[(]*)$"
)
_PAIR_LIST = re.compile(r"[,;]? ?(?:and|e|to|through|thru|a|ate|or|until|&|和|至|到|-)? ?$")
_PAIR_NOT = re.compile(r"(?:strength|pain|power|score|scale|grade|gcs|mmse|moca|meem|apgar|murmur|sopro|vision|visual|acuity|flexion|extension|abduction|adduction|grip|reflex\w*|pulses?|dor|forca|muscular|glasgow|eva|nrs|vas|"
                       r"bp|pa|pressure|stage|type|motor|mrc|quad\w*|biceps|triceps|dorsiflexion|ratio|level|c\d|l\d|t\d|s\d|age|g\dp\d|out of|肌力|评分|疼痛|血压)[ :=(]{0,3}(?:[\w ]{0,24})$")  # fmt: skip
_PAIR_UNIT = re.compile(
    r" ?(?:tablets?|tabs?|comprimidos?|cp|weeks?|wks?|semanas|throughout|strength|in (?:the|all|both|bilateral|right|left)|bilaterally|murmur|vision|cups?|dose|pint|pack|teaspoon|inch|liter|cores?|patients|cases|lymph|nodes|of|mg|ml|[ap]\.?m)(?![a-z])"
)
_BORN = re.compile(
    r"(?:(?<![a-z])(?:born|birth ?year|year of birth|yob|birth date|dob|b\.|nascid[oa]|nascimento|ano de nascimento|nasceu)(?: (?:in|on|em|no ano de|around|circa))?|生于|出生于|出生年份?)[ :=]{0,3}(1[89]\d\d)(?![\d/.-])|(?<!\d)(1[89]\d\d) ?年(?:出生|生(?!于))"
)
_YEAR_TODAY_MARGIN = (
    87  # years; a birth year so long ago may be that of a person over 89 when the note is older
)


def find_dates(document: MatchText) -> Iterator[Span]:
    """Dates in digits and words."""
    text = document.flat
    if any(c in text for c in "0123456789"):
        for pattern in (_DIGITS, _SPACED, _YEAR_MONTH, _COMPACT, _NAMED):
            for match in pattern.finditer(text):
                yield Span(match.start(), _strip(text, match.start(), match.end()), Entity.DATE)
        yield from _pairs(text)
    for match in _WORDED.finditer(text):
        group = 1 if match[1] else 2 if match[2] else 0
        yield Span(match.start(group), match.end(group), Entity.DATE)
    if "月" in text or "日" in text or "号" in text:
        for pattern in (_CHINESE, _CHINESE_SHORT):
            for match in pattern.finditer(text):
                yield Span(match.start(), match.end(), Entity.DATE)


def find_birth_years(document: MatchText, *, this_year: int) -> Iterator[Span]:
    """The birth year of a person who may be over 89."""
    for match in _BORN.finditer(document.folded):
        group = 1 if match[1] else 2
        if int(match[group]) <= this_year - _YEAR_TODAY_MARGIN:
            yield Span(match.start(group), match.end(group), Entity.DATE)


def _pairs(text: str) -> Iterator[Span]:
    previous_end = -1
    for match in _PAIR.finditer(text):
        first, second = int(match[1]), int(match[3])
        if (first > 12 and second > 12) or (
            match[2] != "/" and not (match[2] == "." and first > 12)
        ):
            continue
        before = text[max(0, match.start() - 40) : match.start()]
        in_list = previous_end >= 0 and _PAIR_LIST.fullmatch(text, previous_end, match.start())
        if (
            (in_list or _PAIR_BEFORE.search(before))
            and not _PAIR_NOT.search(before)
            and not _PAIR_UNIT.match(text, match.end())
        ):
            yield Span(match.start(), match.end(), Entity.DATE)
            previous_end = match.end()


def _strip(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1] in " .,'":
        end -= 1
    return end
