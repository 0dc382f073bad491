"""Words of a text as rows of embedding tables: what the anonymizer's tagger sees, on the device and in training.

A word is a run of letters, a run of digits, one other character, or a line break. It is described by its identity (when it
is in a vocabulary of ordinary words, so that a name never has one), by hashed letter trigrams and ends, and by its looks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRAM_ROWS = 8192  # row 0 is nothing
GRAMS = 16  # of one word at most
LOOKS = 8 * 3 * 4
UNKNOWN = 0
_WORD = re.compile(r"[^\W\d_]+|\d+|\n|[^\s\w]|_")
_LINE = re.compile(r"[^\n]+")
_MAX_LETTERS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of one text.

    ``starts`` and ``ends`` are code points; ``looks`` is ``(n,) int64`` in ``[0, LOOKS)``; ``folded`` the words in lower
    case without accents.
    """

    starts: list[int]
    ends: list[int]
    folded: list[str]
    looks: NDArray[np.int64]


def read_words(text: str, folded: str) -> Words:
    """Cut a text into words.

    Args:
        text: With its capitals.
        folded: The same text in lower case and without accents, of equal length.
    """
    starts: list[int] = []
    ends: list[int] = []
    words: list[str] = []
    looks: list[int] = []
    lines = _line_cases(text)
    line, line_end, line_case = 0, -1, 3
    previous = -1
    for match in _WORD.finditer(text):
        start, end = match.span()
        while start >= line_end and line < len(lines):
            line_end, line_case = lines[line]
            line += 1
        gap = 0 if start == previous else 1
        if start == 0 or text[start - 1] == "\n":
            gap = 2
        starts.append(start)
        ends.append(end)
        words.append(folded[start:end])
        looks.append((_case(match.group()) * 3 + gap) * 4 + line_case)
        previous = end
    return Words(starts, ends, words, np.array(looks, dtype=np.int64))


def identity(word: str, vocabulary: Mapping[str, int]) -> int:
    """The row of a folded word; digits have one by their number, what is not in the vocabulary has ``UNKNOWN``."""
    if word.isdigit():
        return vocabulary.get(f"#{min(len(word), 12)}", UNKNOWN)
    return vocabulary.get(word, UNKNOWN)


def grams(word: str) -> list[int]:
    """Rows of the trigrams and the ends of a folded word, at most ``GRAMS``; digits have their length and first figure."""
    if word.isdigit():
        keys = [
            f"#{len(word)}",
            f"#{len(word)}:{word[0]}",
            f"#{word}" if len(word) < 5 else "#long",
        ]
    elif len(word) == 1 and not word.isalpha():
        keys = [f"={word}"]
    else:
        padded = f"<{word[:_MAX_LETTERS]}>"
        ends = [f"^{padded[:4]}", f"${padded[-4:]}", f"${padded[-5:]}"]
        if "\u4e00" <= word[0] <= "\u9fff":
            ends = []
        keys = [*ends, *(padded[i : i + 3] for i in range(len(padded) - 2))][:GRAMS]
    return [1 + zlib.crc32(key.encode()) % (GRAM_ROWS - 1) for key in keys]


def _case(word: str) -> int:
    """0 lower, 1 capital first, 2 capitals, 3 mixed, 4 one capital, 5 digits, 6 a line break, 7 another character."""
    if word == "\n":
        return 6
    if word[0].isdigit():
        return 5
    if not word[0].isalpha():
        return 7
    if word.islower() or word.lower() == word.upper():
        return 0
    if len(word) == 1:
        return 4
    if word.isupper():
        return 2
    return 1 if word[0].isupper() and word[1:].islower() else 3


def _line_cases(text: str) -> list[tuple[int, int]]:
    """End of each line and its letters: 0 lower only, 1 mixed, 2 capitals only, 3 none."""
    cases = []
    for match in _LINE.finditer(text):
        line = match.group()
        lower, upper = line.upper() != line, line.lower() != line
        cases.append((match.end() + 1, 1 if lower and upper else 2 if upper else 0 if lower else 3))
    return cases
