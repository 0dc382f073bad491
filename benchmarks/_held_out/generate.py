"""Fill templates with values; every value knows where it stands and what it is."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks._held_out import english, mandarin, portuguese
from benchmarks._held_out.values import Person, Values

_SLOT = re.compile(r"\{(?:(?P<who>\d)\.)?(?P<what>[a-z_0-9]+)\}")
_LANGUAGES = {"en": english, "pt": portuguese, "zh": mandarin}


@dataclass(frozen=True, slots=True)
class LabelledNote:
    """A text with its identifiers ``(start, end, entity)``; a clean one has none."""

    text: str
    spans: tuple[tuple[int, int, str], ...]
    style: str


def held_out_notes(language: str, count: int, *, seed: int = 41) -> Iterator[LabelledNote]:
    """Notes of every style in turn, the same for one seed."""
    rng = random.Random(seed)
    templates = list(_LANGUAGES[language].TEMPLATES.items())
    for index in range(count):
        style, template = templates[index % len(templates)]
        yield _filled(template, style, Values(rng, language))


def clean_notes(language: str) -> Iterator[LabelledNote]:
    """Clinical text that holds no identifier at all."""
    for text in _LANGUAGES[language].CLEAN:
        yield LabelledNote(text, (), "clean")


def _filled(template: str, style: str, values: Values) -> LabelledNote:
    persons: dict[str, Person] = {}
    kept: dict[str, tuple[str, str]] = {}
    text, spans, position = "", list[tuple[int, int, str]](), 0
    for match in _SLOT.finditer(template):
        text += template[position : match.start()]
        position = match.end()
        if match["who"]:
            person = persons.setdefault(match["who"], values.person())
            entity, value = "PERSON", person.written(match["what"])
        elif match["what"].startswith("same_"):
            entity, value = kept[match["what"].removeprefix("same_")]
        else:
            entity, value = values.make(match["what"])
            kept[match["what"]] = (entity, value)
        if entity:
            spans.append((len(text), len(text) + len(value), entity))
        text += value
    text += template[position:]
    return LabelledNote(text, tuple(spans), style)
