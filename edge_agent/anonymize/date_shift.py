"""Shifting dates: one offset for a request, session or patient, in whole weeks, so that intervals and weekdays survive.

Only a full date in a writing that can be read beyond doubt is shifted; every other gets a surrogate.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from dataclasses import dataclass

from partition.text.fold import fold
from partition.text.months import MONTHS

_MAX_WEEKS = 520  # ten years back
MAX_CHARACTERS = 24  # of a shifted date; what a stream holds back at most
_NAME = r"(?P<name>[^\W\d_]{3,12})(?P<dot>\.?)"
_DAY, _MONTH, _YEAR = r"(?P<day>\d{1,2})", r"(?P<month>\d{1,2})", r"(?P<year>\d{4}|\d{2})"
_WRITINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<year>\d{4})(?P<a>[-/.])(?P<month>\d{1,2})(?P<b>[-/.])(?P<day>\d{1,2})",
        r"(?P<first>\d{1,2})(?P<a>[-/.])(?P<second>\d{1,2})(?P<b>[-/.])" + _YEAR,
        r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})",
        rf"{_NAME}(?P<a> ){_DAY}(?P<b>, | ){_YEAR}",
        rf"{_DAY}(?P<a>[ -]| de ){_NAME}(?P<b>[ -]| de |, ){_YEAR}",
        r"(?P<year>\d{4})(?P<a>年)(?P<month>\d{1,2})(?P<b>月)(?P<day>\d{1,2})(?P<c>[日号])",
    )
)
_CENTURY_TURN = 50  # "49" is 2049 and "50" 1950; the offset is added and the two digits are written again, so it cancels


@dataclass(frozen=True, slots=True)
class DateShift:
    """An offset, and how ``03/04/2024`` is to be read."""

    weeks: int
    day_first: bool

    @classmethod
    def of(cls, key: bytes, *, day_first: bool) -> DateShift:
        """The offset that belongs to a key."""
        digest = hmac.new(key, b"dates", hashlib.sha256).digest()
        return cls(1 + int.from_bytes(digest[:8], "big") % _MAX_WEEKS, day_first)

    def shifted(self, value: str) -> str | None:
        """The date as many weeks earlier, written the same way; None when it cannot be read beyond doubt."""
        for writing in _WRITINGS:
            match = writing.fullmatch(value)
            if match is not None:
                return self._rewritten(match)
        return None

    def _rewritten(self, match: re.Match[str]) -> str | None:
        parts = match.groupdict()
        month_first = False
        if "first" in parts:
            first, second = int(parts["first"]), int(parts["second"])
            month_first = second > 12 or (first <= 12 and not self.day_first)
            month, day = (first, second) if month_first else (second, first)
        elif "name" in parts:
            month, day = _month_number(parts["name"]), int(parts["day"])
        else:
            month, day = int(parts["month"]), int(parts["day"])
        year = int(parts["year"])
        if len(parts["year"]) == 2:
            year += 1900 if year >= _CENTURY_TURN else 2000
        try:
            moved = datetime.date(year, month, day) - datetime.timedelta(weeks=self.weeks)
        except (ValueError, OverflowError):
            return None
        out = _written(match, moved, month_first)
        return out if len(out) <= MAX_CHARACTERS else None


def _written(match: re.Match[str], moved: datetime.date, month_first: bool) -> str:
    numbers = {"year": moved.year, "month": moved.month, "day": moved.day}
    numbers["first"], numbers["second"] = (
        (moved.month, moved.day) if month_first else (moved.day, moved.month)
    )
    spans = sorted((match.span(group), group) for group, text in match.groupdict().items() if text)
    out: list[str] = []
    for (start, end), group in spans:
        text = match.string[start:end]
        if group == "name":
            out.append(_month_name(text, moved.month))
        elif group in numbers:
            number = numbers[group] % 100 if group == "year" and len(text) == 2 else numbers[group]
            out.append(
                f"{number:0{len(text)}d}" if text[0] == "0" or len(text) > 1 else str(number)
            )
        else:
            out.append(text)
    return "".join(out)


def _month_number(name: str) -> int:
    """1 to 12, or 0 when it is no month."""
    for months in MONTHS.values():
        for number, month in enumerate(months, start=1):
            if fold(name) in (fold(month), fold(month)[:3]):
                return number
    return 0


def _month_name(like: str, number: int) -> str:
    """The month in the language, length and case of another's name."""
    months = next(
        names
        for names in MONTHS.values()
        if any(fold(like) in (fold(m), fold(m)[:3]) for m in names)
    )
    name = months[number - 1]
    if len(like) == 3 and fold(like) not in map(fold, months):
        name = name[:3]
    elif fold(like) == "may":
        name = months[number - 1]
    return name.upper() if like.isupper() else name.capitalize() if like[0].isupper() else name
