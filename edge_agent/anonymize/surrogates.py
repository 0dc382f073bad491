r"""Surrogates: what stands in the text in place of an identifier.

    [PERSON_1]   [PERSON_1b]   [DATE_3]   [ID_2]

Numbers follow first appearance in the request, so that a longer chat keeps the surrogates of its shorter prefix. The same
value has the same surrogate; another wording of the same thing has the same number and the next letter, so that each restores
to exactly what stood there. Nothing of a value (hash, initials, length, gender) is in its surrogate.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from edge_agent.anonymize.alignment import align
from edge_agent.errors import TooManyIdentifiersError
from edge_agent.flow import Entity
from edge_agent.vault import Vault
from partition.text.fold import fold

MAX_NUMBER = 999  # three digits; a request with more identifiers of one kind is no request
_LETTERS = "bcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[^\W\d_]+")
_NOT_ALNUM = re.compile(r"[\W_]+")
_PARTICLES = frozenset(
    [
        "de",
        "da",
        "do",
        "dos",
        "das",
        "e",
        "di",
        "del",
        "della",
        "van",
        "von",
        "der",
        "den",
        "la",
        "le",
        "el",
        "y",
        "jr",
        "sr",
        "ii",
        "iii",
        "iv",
    ]
)


@dataclass(slots=True)
class SurrogateBook:
    """Numbers given so far, by keyed digest of the value; it holds no value itself.

    One book serves one request, or the requests of one session or patient when the caller keeps it: then the same person has
    the same surrogate in each of them. Not thread-safe.
    """

    key: bytes = field(repr=False)
    _surrogates: dict[bytes, str] = field(default_factory=dict, repr=False)
    _numbers: dict[tuple[Entity, bytes], int] = field(default_factory=dict, repr=False)
    _variants: dict[tuple[Entity, int], int] = field(default_factory=dict, repr=False)
    _last: dict[Entity, int] = field(default_factory=dict, repr=False)

    def surrogate(self, entity: Entity, value: str, vault: Vault) -> str:
        """The surrogate of a value, new or the one it has; the vault learns it.

        Raises:
            TooManyIdentifiersError: More than 999 of one kind.
        """
        exact = self._digest(entity, "=", value)
        known = self._surrogates.get(exact)
        if known is None:
            known = self._allocate(entity, value)
            self._surrogates[exact] = known
        vault.put(known, entity, value)
        return known

    def _allocate(self, entity: Entity, value: str) -> str:
        digests = [self._digest(entity, "~", form) for form in _forms(entity, value)]
        for digest in digests:
            number = self._numbers.get((entity, digest))
            if number is not None and self._variants[entity, number] < len(_LETTERS):
                letter = _LETTERS[self._variants[entity, number]]
                self._variants[entity, number] += 1
                self._learn(entity, digests, number)
                return f"[{entity}_{number}{letter}]"
        number = self._last.get(entity, 0) + 1
        if number > MAX_NUMBER:
            raise TooManyIdentifiersError(entity)
        self._last[entity] = number
        self._variants[entity, number] = 0
        self._learn(entity, digests, number)
        return f"[{entity}_{number}]"

    def _learn(self, entity: Entity, digests: list[bytes], number: int) -> None:
        for digest in digests:
            self._numbers.setdefault((entity, digest), number)

    def _digest(self, entity: Entity, kind: str, value: str) -> bytes:
        message = f"{entity}{kind}{value}".encode("utf-8", "surrogatepass")
        return hmac.new(self.key, message, hashlib.sha256).digest()


def _forms(entity: Entity, value: str) -> list[str]:
    """Shorter writings by which the same thing is recognised, the most telling first."""
    folded = fold(align(value).text)
    whole = _NOT_ALNUM.sub("", folded)
    if entity is not Entity.PERSON:
        return [whole] if whole else [value]
    words = [word for word in _WORD.findall(folded) if word not in _PARTICLES]
    forms = ["".join(sorted(words)) or value]
    forms.extend(word for word in words if len(word) > 1)
    return forms
