"""Text for matching, with a map from each of its positions back to the input.

Patterns see NFKC, look-alike letters made Latin, invisible characters removed and one kind of space and hyphen; the output
is spliced into the *input*, because NFKC would turn ``10⁹/L`` into ``109/L``. The map is built per combining cluster, so that
a span always covers whole clusters of the input (decomposed accents, ligatures, full-width digits).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass, field

from partition.text.fold import fold

# Letters of other scripts that are drawn like Latin ones (Unicode TR39 confusables, the exact look-alikes). Lower-case Greek
# is left alone but for omicron: alpha, beta, gamma and mu are words of medicine.
_LOOKALIKES = dict(
    zip(
        "АВЕЅІЈКМНОРСТУХЬаеорсухѕіјһԁԛԝАΑΒΕΖΗΙΚΜΝΟΡΤΥΧοӏ",
        "ABESIJKMHOPCTYXbaeopcyxsijhdqwAABEZHIKMNOPTYXol",
        strict=True,
    )
)
_HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d\u30fc"
_APOSTROPHES = "\u2018\u2019\u201b\u02bc\u02b9\u00b4\u0060\uff07"
_LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_CACHE_SIZE = 16_384  # distinct clusters; some thousand Han characters and what accompanies them


@dataclass(frozen=True, slots=True)
class MatchText:
    """One text as patterns see it.

    ``text`` and ``folded`` (lower case, no accents) have equal length; position ``i`` of both stands for the input's
    characters ``[starts[i], ends[i])``. ``starts`` is None when the map is the identity.
    """

    original: str = field(repr=False)
    text: str = field(repr=False)
    folded: str = field(repr=False)
    starts: tuple[int, ...] | None = field(default=None, repr=False)
    ends: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def flat(self) -> str:
        """``folded`` with its lines joined by spaces: for values that a line break may cut in two."""
        return self.folded.replace("\n", " ")

    def to_input(self, start: int, end: int) -> tuple[int, int]:
        """The input's code points that ``[start, end)`` of the text stands for; whole clusters."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def align(original: str) -> MatchText:
    """Make the text for matching."""
    if original.isascii():
        text = original.translate(_ASCII_TABLE)
        if "\x00" not in text:
            return MatchText(original, text, text.lower())
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    identity, gap = True, False
    index, size = 0, len(original)
    while index < size:
        run = None if gap and original[index] == " " else _SAME.match(original, index)
        if run is not None:
            stop = run.end()
            if stop < size and _extends(original[stop]):
                stop -= 1  # the last letter bears a mark
            if stop > index:
                pieces.append(original[index:stop])
                starts.extend(range(index, stop))
                ends.extend(range(index + 1, stop + 1))
                index, gap = stop, False
                continue
        end = index + 1
        while end < size and _extends(original[end]):
            end += 1
        piece = _normal(original[index:end])
        # " \u202e " is one space: what shows nothing may not part a label from its value, or a name from a name.
        if not piece or (piece == " " and end - index > 1):
            gap = True
        elif piece != " ":
            gap = False
        if piece == " " and gap and pieces and pieces[-1][-1] == " ":
            piece = ""
        if piece:
            pieces.append(piece)
        starts.extend([index] * len(piece))
        ends.extend([end] * len(piece))
        identity = identity and len(piece) == 1 == end - index
        index = end
    text = "".join(pieces)
    folded = fold(text)
    if identity:
        return MatchText(original, text, folded)
    return MatchText(original, text, folded, tuple(starts), tuple(ends))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _extends(character: str) -> bool:
    if character.isascii():
        return False
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or "\u1160" <= character <= "\u11ff"  # Hangul vowels and finals join the syllable
    )


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _normal(cluster: str) -> str:
    out: list[str] = []
    if len(cluster) == 1 and _extends(cluster):
        return ""  # a mark that stands on nothing
    if len(cluster) > 1 and not cluster[0].isalpha():  # or on no letter
        cluster = cluster[0]
    for character in unicodedata.normalize("NFKC", cluster):
        if character in _LINE_BREAKS:
            out.append("\n")
        elif character.isspace():
            out.append(" ")
        elif unicodedata.category(character) in ("Cf", "Cc", "Cn"):
            continue
        elif character in _HYPHENS:
            out.append("-")
        elif character in _APOSTROPHES:
            out.append("'")
        elif "\ud800" <= character <= "\udfff" or character == "\ufffd":
            continue  # half a pair, and what stands for what could not be decoded
        elif not character.isascii() and character.isdecimal():
            out.append(str(unicodedata.decimal(character)))
        else:
            out.append(_LOOKALIKES.get(character, character))
    return "".join(out)


# Runs that are their own text for matching: printable ASCII but the back-tick, Latin-1 letters, Han.
_SAME = re.compile("[ -_a-~\n\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u4e00-\u9fa5]+")
_ASCII_TABLE = {
    code: "\n" if chr(code) in _LINE_BREAKS else " " if chr(code) == "\t" else "\x00"
    for code in (*range(32), 127)
}
_ASCII_TABLE |= {0x1F: " ", ord("`"): "'"}
