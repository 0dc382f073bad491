"""Values that stand where an identifier would be, and name nobody."""

from __future__ import annotations

import re

from edge_agent.anonymize.lexicon import read_words

_PLACEHOLDERS = read_words("placeholders")


def is_placeholder(value: str) -> bool:
    """Whether a value only stands where an identifier would be, such as ``ANONYMOUS``, ``N/A``, ``0000`` or nothing."""
    words = re.split(r"[\s^=,._-]+", value.casefold())
    letters = [word for word in words if word]
    return all(word in _PLACEHOLDERS or set(word) == {"0"} for word in letters)
