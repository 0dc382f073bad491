"""Synthetic notes with labelled spans, and LeNER-Br, as training examples."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cloud_service.training.ner import templates_en, templates_pt
from cloud_service.training.ner.values import NameLists, Values, common_words

_SLOT = re.compile(r"\{(\w)\}")
_ENTITIES = {
    "P": "PERSON", "F": "PERSON", "L": "PERSON", "I": "PERSON", "C": "PERSON", "O": "ORGANIZATION", "T": "LOCATION", "S": "LOCATION", "Z": "LOCATION",
    "D": "DATE", "M": "DATE", "N": "ID", "H": "PHONE", "A": "AGE",
}  # fmt: skip
_LENER = {"PESSOA": "PERSON", "LOCAL": "LOCATION", "ORGANIZACAO": "ORGANIZATION", "TEMPO": "DATE"}


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its labelled spans ``(start, end, entity)``."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def synthetic_notes(count: int, *, language: str, names: NameLists, seed: int) -> Iterator[Note]:
    """Notes of one to nine sentences, a third of them without identifiers, in running, lower and upper case."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    templates = templates_pt if language == "pt" else templates_en
    texts = list(templates.CLEAN)
    if language == "en":
        from pydoc_data.topics import topics

        texts.extend(topics.values())
    values = Values(rng, names, language, common_words(texts))
    for _ in range(count):
        yield _note(rng, values, templates)


def lener_notes(path: Path) -> Iterator[Note]:
    """Sentences of LeNER-Br; court papers and laws are no entities of ours."""
    words: list[str] = []
    tags: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            word, _, tag = line.strip().rpartition(" ")
            words.append(word)
            tags.append(tag)
        elif words:
            yield _joined(words, tags)
            words, tags = [], []
    if words:
        yield _joined(words, tags)


def _note(rng: random.Random, values: Values, templates: ModuleType) -> Note:
    if rng.random() < 0.12:
        return _structured(rng, values, templates.RECORDS)
    sentences, clean, filled = templates.SENTENCES, templates.CLEAN, templates.FILLED
    text, spans = "", list[tuple[int, int, str]]()
    kept: dict[str, str] = {}  # a name that comes back in the same note
    separator = rng.choice((" ", " ", " ", "\n", "\n", ". ", "; ", "  "))
    share = rng.choice((0.0, 0.35, 0.5, 0.6, 0.8))
    for index in range(rng.randint(1, 9)):
        if index:
            text += (
                separator if rng.random() < 0.9 else rng.choice((" ", "\n", "\n\n", ", ", " - "))
            )
        if rng.random() < share:
            template = rng.choice(sentences)
        else:
            template = rng.choice(clean if rng.random() < 0.45 else filled)
        if template[-1] in ".:" and rng.random() < 0.2:
            template = template[:-1]
        more, found = _filled(template, values, kept, rng)
        spans.extend((len(text) + start, len(text) + end, entity) for start, end, entity in found)
        text += more
    return _recased(rng, text, spans)


def _structured(rng: random.Random, values: Values, records: tuple[str, ...]) -> Note:
    """Lines of a header dump, a log or a JSON document; the labels and keys are no names."""
    kind = rng.choice(records)
    lines = [line for line in kind.split("\n") if rng.random() < 0.8] or [kind.split("\n")[0]]
    separator = ", " if "{{" in kind else "\n"
    text, spans = _filled(separator.join(lines), values, {}, rng)
    return _recased(rng, text, spans)


def _filled(
    template: str, values: Values, kept: dict[str, str], rng: random.Random
) -> tuple[str, list[tuple[int, int, str]]]:
    text, spans, position = "", list[tuple[int, int, str]](), 0
    for match in _SLOT.finditer(template):
        text += template[position : match.start()].replace("{{", "{").replace("}}", "}")
        value = _value(match[1], values, kept, rng)
        if match[1] in _ENTITIES:
            spans.append((len(text), len(text) + len(value), _ENTITIES[match[1]]))
        text += value
        position = match.end()
    return text + template[position:].replace("{{", "{").replace("}}", "}"), spans


def _recased(rng: random.Random, text: str, spans: list[tuple[int, int, str]]) -> Note:
    if rng.random() < 0.15:  # wrapped lines, and lists of them
        width = rng.randint(40, 90)
        characters = list(text)
        last = 0
        for index, character in enumerate(characters):
            if character == " " and index - last > width:
                characters[index] = "\n"
                last = index
        text = "".join(characters)
    draw = rng.random()
    case: Callable[[str], str] | None = (
        str.lower if draw < 0.22 else str.upper if draw < 0.36 else None
    )
    if case is not None:
        changed = "".join(c if len(case(c)) != 1 else case(c) for c in text)
        text = changed
    return Note(text, tuple(spans))


def _value(slot: str, values: Values, kept: dict[str, str], rng: random.Random) -> str:
    if slot.isdigit():
        return str(rng.randint(1, 10 ** int(slot) - 1))
    if slot in "wW":
        return values.word() if slot == "w" else values.word().capitalize()
    if slot in "FL" and slot in kept and rng.random() < 0.4:
        return kept[slot]
    makers: dict[str, Callable[[], str]] = {
        "P": values.person, "F": values.given, "L": values.family, "I": values.initials, "C": values.dicom_name, "O": values.organization,
        "T": values.town, "S": values.street, "Z": values.postcode, "D": values.date, "M": values.day_and_month, "N": values.identifier,
        "H": values.phone, "A": lambda: values.number(90, 109),
    }  # fmt: skip
    value = makers[slot]()
    if slot in "FL":
        kept[slot] = value
    return value


def lener_words(path: Path) -> set[str]:
    """Lower-case words of LeNER-Br that are part of no entity."""
    words: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, tag = line.strip().rpartition(" ")
        if tag == "O" and word.isalpha() and word.islower() and len(word) > 2:
            words.add(word)
    return words


def _joined(words: list[str], tags: list[str]) -> Note:
    text, spans = "", list[tuple[int, int, str]]()
    for word, tag in zip(words, tags, strict=True):
        if text and word not in {",", ".", ";", ":", ")", "?", "!"} and not text.endswith("("):
            text += " "
        start = len(text)
        text += word
        entity = _LENER.get(tag[2:])
        if entity is None:
            continue
        if tag.startswith("I-") and spans and spans[-1][2] == entity and start - spans[-1][1] <= 1:
            spans[-1] = (spans[-1][0], len(text), entity)
        else:
            spans.append((start, len(text), entity))
    return Note(text, tuple(spans))
