"""Which language a text is in: by script for Chinese, by function words between English and Portuguese."""

from __future__ import annotations

import re

LANGUAGES = ("en", "pt", "zh")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[^\W\d_]+")
_EN = frozenset(
    [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "was",
        "for",
        "with",
        "on",
        "by",
        "at",
        "from",
        "his",
        "her",
        "she",
        "he",
        "has",
        "have",
        "are",
        "not",
        "be",
        "this",
        "that",
        "an",
        "patient",
        "seen",
        "after",
        "no",
        "or",
        "as",
        "were",
        "which",
        "will",
        "may",
    ]
)
_PT = frozenset(
    [
        "de",
        "do",
        "da",
        "em",
        "com",
        "sem",
        "para",
        "por",
        "na",
        "no",
        "nao",
        "ao",
        "dos",
        "das",
        "uma",
        "um",
        "foi",
        "que",
        "se",
        "os",
        "as",
        "mais",
        "pelo",
        "pela",
        "paciente",
        "dia",
        "anos",
        "esta",
        "ou",
        "sr",
        "sra",
        "seu",
        "sua",
        "ate",
        "desde",
        "apos",
        "aos",
        "nas",
        "nos",
        "eu",
        "meu",
        "minha",
        "tem",
        "mae",
        "filha",
        "mora",
    ]
)


def detect(folded: str) -> tuple[str, ...]:
    """One language when it is clear, else the two that look alike; Chinese and Latin text may also be mixed."""
    han = len(_HAN.findall(folded))
    words = _WORD.findall(folded)
    latin = [word for word in words if word.isascii()]
    if han and han * 2 >= sum(map(len, latin)) // 4:
        return ("zh",)
    english = sum(word in _EN for word in latin)
    portuguese = sum(word in _PT for word in latin)
    found: tuple[str, ...]
    if english >= 2 and english > 2 * portuguese:
        found = ("en",)
    elif portuguese >= 2 and portuguese > 2 * english:
        found = ("pt",)
    else:
        found = ("en", "pt")
    return (*found, "zh") if han else found
