"""Folding: lower case without accents, character by character, so that positions stay."""

from __future__ import annotations

import functools
import unicodedata

_EXTRA = {"ß": "s", "æ": "a", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "t", "ı": "i"}
_CACHE_SIZE = 16_384  # characters; some thousand Han ones and what accompanies them


def fold(value: str) -> str:
    """Lower case without accents; same length."""
    return value.lower() if value.isascii() else "".join(map(_fold, value))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _fold(character: str) -> str:
    if character.isascii():
        return character.lower()
    if character in _EXTRA:
        return _EXTRA[character]
    base = unicodedata.normalize("NFD", character)[0].lower()
    return _EXTRA.get(base, base if len(base) == 1 else character)
