r"""Restoring: surrogates -> originals, on the device, last and once, also while the answer streams.

Accepted forms, because models copy imperfectly: exact, other case, escaped (``\[PERSON\_1\]``), full-width or doubled
brackets, lost brackets (``PERSON_1``). An unknown letter falls back to the number. An unknown number stays as it is and is
counted: never guess. Restored text is never scanned again, for a value may itself contain ``[PERSON_2]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.flow import Entity
from edge_agent.vault import Vault

_OPEN, _CLOSE = r"[\[［【]", r"[\]］】]"
_BORDER = r"[0-9A-Za-z_]"
# Longest first, so that no name hides another. Flags: ASCII, or "ſ" would match "s".
_NAMES = "|".join(sorted((entity.value for entity in Entity), key=len, reverse=True))
_CORE = rf"(?:{_NAMES})\\?[_＿][0-9]{{1,3}}[b-z]?"
_FORM = re.compile(
    rf"{_OPEN}{{2}}{_CORE}{_CLOSE}{{2}}|\\?{_OPEN}{_CORE}\\?{_CLOSE}|(?<!{_BORDER}){_CORE}(?!{_BORDER})",
    re.IGNORECASE | re.ASCII,
)
_PARTS = re.compile(
    rf"(?P<entity>{_NAMES})\\?[_＿](?P<number>[0-9]{{1,3}})(?P<letter>[b-z]?)",
    re.IGNORECASE | re.ASCII,
)
_PREFIXES = "|".join(
    sorted({name[:size] for name in _NAMES.split("|") for size in range(1, len(name))}, key=len)
)


def _started(tail: str) -> str:
    """Pattern of every prefix of ``_CORE``, the empty one too, and of the whole with what may follow it."""
    return rf"(?:{_PREFIXES}|(?:{_NAMES})(?:\\|\\?[_＿](?:[0-9]{{1,3}}[b-z]?{tail})?)?)?\Z"


# A suffix of the text so far that more text could turn into a form.
_UNFINISHED = re.compile(
    rf"\\\Z|{_OPEN}{{2}}{_started(f'{_CLOSE}?')}|\\?{_OPEN}{_started(chr(92) * 2 + '?')}"
    rf"|(?<!{_BORDER})(?=[A-Za-z]){_started('')}",
    re.IGNORECASE | re.ASCII,
)
_MAX_HELD = 24  # characters; the longest unfinished form has 21


@dataclass(frozen=True, slots=True)
class Restored:
    """Text with originals, and how many surrogates in it the model invented."""

    text: str = field(repr=False)
    num_unknown: int


def surrogate_forms(text: str) -> list[tuple[int, int]]:
    """Where a text holds what would be read as a surrogate; the anonymizer must replace those of the input."""
    return [match.span() for match in _FORM.finditer(text)]


def restore(text: str, vault: Vault) -> Restored:
    """Put the originals back into a whole answer."""
    restorer = StreamRestorer(vault)
    restored = restorer.feed(text) + restorer.finish()
    return Restored(restored, restorer.num_unknown)


def restore_arguments(text: str, vault: Vault) -> Restored:
    """Put the originals back into the JSON of a function call's arguments; keys are never touched."""
    restorer = ArgumentsRestorer(vault)
    restored = restorer.feed(text) + restorer.finish()
    return Restored(restored, restorer.num_unknown)


class StreamRestorer:
    """Restores an answer that arrives in pieces; any chunking gives what the whole would give. Not thread-safe."""

    def __init__(self, vault: Vault, *, escape: Callable[[str], str] | None = None) -> None:
        self._vault = vault
        self._escape = escape
        self._literals = vault.literals()
        self._form = _with_literals(self._literals)
        self._held = ""
        self._before = (
            ""  # the last character before what is held: the border of a form without brackets
        )
        self.num_unknown = 0

    def feed(self, piece: str) -> str:
        """Text that no later piece can change; at most 24 characters are held back."""
        text = self._before + self._held + piece
        start = len(self._before)
        cut = _open_position(text, start, self._literals)
        return self._release(text, start, cut)

    def finish(self) -> str:
        """The rest."""
        text = self._before + self._held
        return self._release(text, len(self._before), len(text))

    def _release(self, text: str, start: int, cut: int) -> str:
        out: list[str] = []
        position = start
        for match in self._form.finditer(text, start, cut):
            out.append(text[position : match.start()])
            out.append(self._replacement(match.group()))
            position = match.end()
        out.append(text[position:cut])
        self._held = text[cut:]
        if cut > 0:
            self._before = text[cut - 1]
        return "".join(out)

    def _replacement(self, form: str) -> str:
        parts = _PARTS.search(form)
        if parts is None:  # a shifted date
            original = self._vault.original(form)
            assert original is not None
            return original if self._escape is None else self._escape(original)
        entity, letter = parts["entity"].upper(), parts["letter"].lower()
        original = self._vault.original(f"[{entity}_{parts['number']}{letter}]")
        if original is None:
            original = self._vault.original(f"[{entity}_{parts['number']}]")
        if original is None:
            self.num_unknown += 1
            return form
        return original if self._escape is None else self._escape(original)


class ArgumentsRestorer:
    """Restores the JSON of function-call arguments that arrives in pieces. Not thread-safe."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._value: StreamRestorer | None = None  # of the string value we are in
        self._stack: list[str] = []  # open containers
        self._in_key = False
        self._expects_key = False
        self._escaped = False
        self._num_unknown = 0

    @property
    def num_unknown(self) -> int:
        """Surrogates that the model invented."""
        return self._num_unknown + (self._value.num_unknown if self._value else 0)

    def feed(self, piece: str) -> str:
        """JSON that no later piece can change."""
        return "".join(map(self._step, piece))

    def finish(self) -> str:
        """The rest; empty when the JSON was complete."""
        return self._close() if self._value else ""

    def _step(self, character: str) -> str:
        if self._value is not None:
            if character == '"' and not self._escaped:
                return self._close() + character
            self._escaped = character == "\\" and not self._escaped
            return self._value.feed(character)
        if self._in_key:
            if character == '"' and not self._escaped:
                self._in_key = False
            self._escaped = character == "\\" and not self._escaped
            return character
        self._structure(character)
        return character

    def _structure(self, character: str) -> None:
        if character == '"':
            self._escaped = False
            if self._expects_key:
                self._in_key = True
            else:
                self._value = StreamRestorer(self._vault, escape=_json_inside)
        elif character in "{[":
            self._stack.append(character)
            self._expects_key = character == "{"
        elif character in "}]":
            if self._stack:
                self._stack.pop()
            self._expects_key = False
        elif character == ":":
            self._expects_key = False
        elif character == ",":
            self._expects_key = bool(self._stack) and self._stack[-1] == "{"

    def _close(self) -> str:
        assert self._value is not None
        rest = self._value.finish()
        self._num_unknown += self._value.num_unknown
        self._value = None
        return rest


def _open_position(text: str, start: int, literals: tuple[str, ...]) -> int:
    """Where the longest suffix begins that could become (more of) a form; ``len(text)`` when none could."""
    for position in range(max(start, len(text) - _MAX_HELD), len(text)):
        if _UNFINISHED.match(text, position):
            return position
        if literals and not text[position - 1 : position].isalnum():
            suffix = text[position:]
            if any(literal.startswith(suffix) for literal in literals):
                return position
    return len(text)


def _with_literals(literals: tuple[str, ...]) -> re.Pattern[str]:
    """The accepted forms, and shifted dates exactly as they left."""
    if not literals:
        return _FORM
    dates = "|".join(map(re.escape, sorted(literals, key=len, reverse=True)))
    return re.compile(
        rf"{_FORM.pattern}|(?<![^\W_])(?-i:{dates})(?![^\W_])", re.IGNORECASE | re.ASCII
    )


def _json_inside(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]
