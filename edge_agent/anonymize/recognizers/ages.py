"""AGE: 90 and more, digits only; 89 and less is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_OLD = r"(?:9\d|1[0-2]\d)"
_BEFORE = r"(?<!\d[.,])(?<![\d./:x-])"
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_BEFORE}0?({_OLD})(?:[ -]?(?:years?|yrs?)[ -]?old|[ -]?(?:y\.?/?o\.?|y/ ?o)(?![a-z])|[ -]years? of age|-?year-?old| ?anos|anos| ?岁| ?周岁|[ -]?yrs?(?![a-z])(?! ago))",
        rf"{_BEFORE}0?({_OLD})[ -]?(?:y|a|yo|yof|yom|f|m|male|female)(?![a-z0-9.])(?! ?\d)",
        rf"{_BEFORE}({_OLD}) (?:years?|anos)(?![a-z])",
        rf"(?:(?<![a-z])(?:aged?|age is|idade|idoso de|idosa de|turned|turning|is now|years old)|年龄|年纪|享年|现年|寿龄|高龄)[ :=(\"'\]>]{{0,4}}(?:of )?({_OLD})(?![\d%./])",
        rf"(?<![a-z])in (?:his|her|their) (?:mid[- ]|late[- ]|early[- ])?({_OLD})s",
        rf"(?<![a-z0-9])0?({_OLD})y(?![a-z0-9])",
        r"(?<![a-z])((?:ninety|one hundred|a hundred)(?:[- ](?:and )?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)[- ]years?[- ]old",
        r"(?<![a-z])in (?:his|her|their) (?:mid[- ]|late[- ]|early[- ])?(nineties)",
        r"(?<![a-z])(noventa(?: e \w+)?|cem|cento e \w+) anos",
        r"(九十[一二三四五六七八九]?|一百(?:零?[一二三四五六七八九十])?) ?(?:周)?岁",
    )
)


# Where an age may stand: the patterns look only around these. A pressure of 120/80 or a saturation of 98 % is none.
_MAYBE = re.compile(
    r"(?<![\d./])(?<!\d,)0?(?:9\d|1[0-2]\d)(?![\d/%])(?! ?(?:%|m[mgl]|cm|/))|ninet|hundred|novent|cem |cento|九十|一百"
)
_REACH = 40  # characters around such a place


def find_ages(document: MatchText) -> Iterator[Span]:
    """Ages over 89 in digits or words."""
    folded = document.folded
    for maybe in _MAYBE.finditer(folded):
        first, last = max(0, maybe.start() - _REACH), min(len(folded), maybe.end() + _REACH)
        for pattern in _PATTERNS:
            for match in pattern.finditer(folded, first, last):
                yield Span(match.start(1), match.end(1), Entity.AGE)
