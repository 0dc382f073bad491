"""Words that are no part of a name, however a model or a layout makes them look; all folded: lower case, no accents.

The lists are in ``words/*.txt``: words separated by white space, after a first line that says what they are.
"""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "words"


def read_words(name: str) -> frozenset[str]:
    """One list of words."""
    _, _, words = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    return frozenset(words.split())


STOP = read_words("stop_en") | read_words("stop_pt")
MEDICAL = read_words("medical") | read_words("drugs")
ORDINARY = read_words("ordinary")
COMMON_NAMES = read_words("common_names")
KEPT_PLACES = read_words("kept_places")
PARTICLES = read_words("particles")
TITLES = read_words("titles")
CREDENTIALS = read_words("credentials")
# Endings of terms and participles; in small letters a word with one is nobody's name.
TERM_ENDING = re.compile(
    r"(?:fied|[st]ated|[iy]sed|[iy]zed|inate|ously|ingly|edly|ally|able|ible|eous|ious|less|ness|ment|tion|sion|itis|osis|emia|pathy|ectomy|scopy|graphy|grams?|mente|cao|coes|dade|ado|ada|ados|adas)$"
)
# A word with a capital behind one in small letters, or behind a comma: whoever writes so, writes names with capitals.
CAPITAL_INSIDE = re.compile(r"[a-zà-ÿ,] [A-ZÀ-Þ][a-zà-ÿ]{2,}")
