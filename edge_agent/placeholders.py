"""Values that stand where an identifier would be, and name nobody."""

from __future__ import annotations

import re

PLACEHOLDERS = frozenset(
    [
        "anon",
        "anonym",
        "anonymous",
        "anonymized",
        "anonymised",
        "deidentified",
        "de-identified",
        "test",
        "tester",
        "unknown",
        "none",
        "null",
        "nil",
        "na",
        "n/a",
        "no",
        "name",
        "noname",
        "patient",
        "removed",
        "redacted",
        "xxx",
        "xxxx",
        "0",
        "00000000",
        "19000101",
    ]
)


def is_placeholder(value: str) -> bool:
    """Whether a value only stands where an identifier would be, such as ``ANONYMOUS``."""
    words = re.split(r"[\s^=,._-]+", value.casefold())
    letters = [word for word in words if word]
    return all(word in PLACEHOLDERS or set(word) == {"0"} for word in letters)
