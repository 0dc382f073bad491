"""Reading a name from where one must stand: after a title, a label, a greeting."""

from __future__ import annotations

import re

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, CREDENTIALS, MEDICAL, PARTICLES, STOP, TITLES

LATIN = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿḀ-ỿ"
TOKEN = re.compile(
    rf"[{LATIN}](?:[{LATIN}]|['^=](?=[{LATIN}一-鿿])|-(?=[{LATIN}]))*\.?(?=(?P<rest>[^{LATIN}0-9]|$))"
)
_INITIALS = re.compile(r"(?:[A-Z]\.){2,3}(?![A-Za-z])")
_PORTUGUESE_SUFFIXES = frozenset(("filho", "neto", "junior", "sobrinho", "bisneto"))
_SUFFIXES = frozenset(["jr", "jr.", "sr", "sr.", "ii", "iii", "iv", "v"])
_MAX_TOKENS = 6
_MAX_ABBREVIATION = 4


def read_name(
    document: MatchText,
    position: int,
    *,
    strict: bool,
    max_tokens: int = _MAX_TOKENS,
    comma: bool = True,
    wraps: bool = False,
) -> int:
    """Where the name that begins at ``position`` ends; ``position`` itself when none begins there.

    Args:
        document: The text.
        position: Of the name's first letter.
        strict: Take capitalised words only.
        max_tokens: Words at most.
        comma: Whether ``Smith, John A`` may follow this order.
        wraps: Whether the name may go on in the next line.
    """
    text, folded = document.text, document.folded
    if initials := _INITIALS.match(text, position):
        return initials.end()
    end, index, count, commas = position, position, 0, 0
    previous_particle = False
    while count < max_tokens:
        match = TOKEN.match(text, index)
        if match is None:
            break
        token, word = match.group(), folded[match.start() : match.end()].rstrip(".")
        if len(word) == 1 and not token[0].isupper() and not token.endswith(".") and count == 0:
            break
        particle = word in PARTICLES and not (token.isupper() and len(token) in (1, 4, 5))
        if count and word in _SUFFIXES and text[index - 1] == " ":
            end = match.end()
            break
        if count and word in _PORTUGUESE_SUFFIXES and token[0].isupper() and text[index - 1] == " ":
            end = match.end() - token.endswith(".")
            break
        if not particle and not _may_be_name(word, token, count):
            break
        if strict and not particle and not token[0].isupper():
            break
        if (
            particle
            and count == 0
            and strict
            and not token[0].isupper()
            and not _capital_follows(text, match.end())
        ):
            break
        stops = token.endswith(".") and len(word) > 2  # the full stop of a sentence
        index = match.end()
        if not particle:
            end = index - 1 if stops else index
            count += 1
        elif not previous_particle:
            count += 0
        previous_particle = particle
        if stops:
            break
        if text.startswith(", ", index) and comma and commas == 0 and count <= 2:
            following = TOKEN.match(text, index + 2)
            if following is None:
                break
            word = folded[following.start() : following.end()].rstrip(".")
            if word in CREDENTIALS or (word in STOP and word not in COMMON_NAMES):
                if word in _SUFFIXES:
                    end = following.end()
                break
            commas += 1
            index += 2
        elif (index < len(text) and text[index] == " ") or (
            wraps
            and index < len(text)
            and text[index] == "\n"
            and count < 3
            and text[index + 1 : index + 2].isupper()
        ):
            index += 1
        else:
            break
    return end


def _capital_follows(text: str, position: int) -> bool:
    """``da Luz, Gabrielly``: a surname may begin with a particle."""
    following = TOKEN.match(text, position + 1)
    return (
        text[position : position + 1] == " "
        and following is not None
        and following.group()[0].isupper()
        and text[following.end() : following.end() + 1] in (",", "^")
    )


def _may_be_name(word: str, token: str, count: int) -> bool:
    if len(word) == 1:
        return token[0].isupper() or token.endswith(".") or count > 0
    if word in COMMON_NAMES:
        return token[0].isupper() or count == 0
    if word in TITLES or word in CREDENTIALS:
        return (
            len(word) == 2
            and count == 0
            and token.isupper()
            and word not in {"dr", "mr", "ms", "md", "rn"}
        )
    if word in MEDICAL:  # eponyms are surnames of living people too; abbreviations are not
        return token[0].isupper() and len(word) > _MAX_ABBREVIATION and word not in STOP
    return word not in STOP
