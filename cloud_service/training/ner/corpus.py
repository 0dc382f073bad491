"""Synthetic notes with labelled spans, and LeNER-Br, as training examples."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cloud_service.training.ner import places, templates_en, templates_pt
from cloud_service.training.ner.names import NameLists, NameModel
from cloud_service.training.ner.values import Values, common_words

_SLOT = re.compile(r"\{(\w)\}")
_ENTITIES = {
    "P": "PERSON", "F": "PERSON", "L": "PERSON", "I": "PERSON", "C": "PERSON", "O": "ORGANIZATION", "T": "LOCATION", "S": "LOCATION", "Z": "LOCATION",
    "D": "DATE", "M": "DATE", "N": "ID", "H": "PHONE", "A": "AGE",
}  # fmt: skip
_LENER = {"PESSOA": "PERSON", "LOCAL": "LOCATION", "ORGANIZACAO": "ORGANIZATION", "TEMPO": "DATE"}
_NOISY = 0.05  # of the notes look scanned
_SLIP = 0.03  # of their letters are read wrong
_MISREAD = {
    "l": "1", "o": "0", "O": "0", "i": "l", "I": "l", "e": "c", "c": "e", "u": "v", "v": "u", "h": "b", "n": "r", "S": "5", "B": "8", "a": "o", "t": "f", "m": "rn",
    "w": "vv", "d": "cl", " ": "  ", ".": ",", "-": " ",
}  # fmt: skip

_SPOKEN_OF = re.compile(
    r"\b(?:[Tt]he patient|[Pp]atient|[Ss]he|[Hh]e|her (?:mother|father|husband|son|daughter)|his (?:wife|son|daughter|mother)|him|[Dd]octor"
    r"|[Oo] paciente|[Aa] paciente|[Pp]aciente|[Ee]l[ea])\b"
)

Spans = list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its labelled spans ``(start, end, entity)``, and the stretches whose label is not known."""

    text: str
    spans: tuple[tuple[int, int, str], ...]
    unsure: tuple[tuple[int, int], ...] = ()


class NoteMaker:
    """Makes the notes of one language; what it learnt from the lists is kept between passes."""

    def __init__(self, language: str, names: NameLists, sentences: Sequence[str] = ()) -> None:
        """Get ready.

        Args:
            language: ``en`` or ``pt``.
            names: Lists to draw from.
            sentences: Real clinical sentences without identifiers, put between the invented ones.
        """
        self._language = language
        self._templates: ModuleType = templates_pt if language == "pt" else templates_en
        self._names = names
        self._sentences = tuple(sentences)
        self._given, self._family = NameModel(names.given), NameModel(names.family)
        texts = list(self._templates.CLEAN)
        if language == "en":
            from pydoc_data.topics import topics

            texts.extend(topics.values())
        self._common = common_words(texts)

    def notes(self, count: int, *, seed: int) -> Iterator[Note]:
        """Notes of one to nine sentences, a third of them without identifiers, in running, lower and upper case."""
        rng = random.Random(seed)  # noqa: S311 - no secret
        values = Values(rng, self._names, self._language, self._given, self._family, self._common)
        for _ in range(count):
            yield self._note(rng, values)

    def _note(self, rng: random.Random, values: Values) -> Note:
        if rng.random() < 0.12:
            return _structured(rng, values, self._templates.RECORDS)
        templates = self._templates
        text, spans = "", Spans()
        kept: dict[str, str] = {}  # a name that comes back in the same note
        separator = rng.choice((" ", " ", " ", "\n", "\n", ". ", "; ", "  "))
        share = rng.choice((0.0, 0.35, 0.5, 0.6, 0.8))
        for index in range(rng.randint(1, 9)):
            if index:
                text += (
                    separator
                    if rng.random() < 0.9
                    else rng.choice((" ", "\n", "\n\n", ", ", " - "))
                )
            if rng.random() < share:
                template = rng.choice(templates.SENTENCES)
            elif self._sentences and rng.random() < 0.5:
                more, found = _named(rng, values, rng.choice(self._sentences))
                spans.extend((len(text) + start, len(text) + end, x) for start, end, x in found)
                text += more
                continue
            else:
                template = rng.choice(templates.CLEAN if rng.random() < 0.45 else templates.FILLED)
            if template[-1] in ".:" and rng.random() < 0.2:
                template = template[:-1]
            more, found = _filled(template, values, kept, rng)
            spans.extend((len(text) + start, len(text) + end, x) for start, end, x in found)
            text += more
        return _rewritten(rng, text, spans)


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
            yield joined(words, tags, _LENER)
            words, tags = [], []
    if words:
        yield joined(words, tags, _LENER)


def lener_words(path: Path) -> set[str]:
    """Lower-case words of LeNER-Br that are part of no entity."""
    words: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, tag = line.strip().rpartition(" ")
        if tag == "O" and word.isalpha() and word.islower() and len(word) > 2:
            words.add(word)
    return words


def joined(words: list[str], tags: list[str], entities: Mapping[str, str]) -> Note:
    """A sentence from its words and their ``B-``/``I-`` tags; a tag that ``entities`` lacks labels nothing."""
    text, spans = "", Spans()
    for word, tag in zip(words, tags, strict=True):
        if text and word not in {",", ".", ";", ":", ")", "?", "!"} and not text.endswith("("):
            text += " "
        start = len(text)
        text += word
        entity = entities.get(tag[2:])
        if entity is None:
            continue
        if tag.startswith("I-") and spans and spans[-1][2] == entity and start - spans[-1][1] <= 1:
            spans[-1] = (spans[-1][0], len(text), entity)
        else:
            spans.append((start, len(text), entity))
    return Note(text, tuple(spans))


def _structured(rng: random.Random, values: Values, records: tuple[str, ...]) -> Note:
    """Lines of a header dump, a log or a JSON document; the labels and keys are no names."""
    kind = rng.choice(records)
    lines = [line for line in kind.split("\n") if rng.random() < 0.8] or [kind.split("\n")[0]]
    separator = ", " if "{{" in kind else "\n"
    text, spans = _filled(separator.join(lines), values, {}, rng)
    return _rewritten(rng, text, spans)


def _filled(
    template: str, values: Values, kept: dict[str, str], rng: random.Random
) -> tuple[str, Spans]:
    text, spans, position = "", Spans(), 0
    for match in _SLOT.finditer(template):
        text += template[position : match.start()].replace("{{", "{").replace("}}", "}")
        value = _value(match[1], values, kept, rng)
        if match[1] in _ENTITIES:
            spans.append((len(text), len(text) + len(value), _ENTITIES[match[1]]))
        text += value
        position = match.end()
    return text + template[position:].replace("{{", "{").replace("}}", "}"), spans


def _rewritten(rng: random.Random, text: str, spans: Spans) -> Note:
    """Sometimes wrapped to a width, in capitals, in small letters, or as a scanner read it."""
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
        text = "".join(c if len(case(c)) != 1 else case(c) for c in text)
    if rng.random() < _NOISY:
        text, spans = _scanned(rng, text, spans)
    return Note(text, tuple(spans))


def _scanned(rng: random.Random, text: str, spans: Spans) -> tuple[str, Spans]:
    """The text with misread, doubled and lost letters; the spans move along."""
    out: list[str] = []
    places_of = [0]
    for character in text:
        piece = character
        if character != "\n" and rng.random() < _SLIP:
            piece = _MISREAD.get(character, rng.choice((character * 2, "", character)))
        out.append(piece)
        places_of.append(places_of[-1] + len(piece))
    moved = [(places_of[start], places_of[end], entity) for start, end, entity in spans]
    return "".join(out), [span for span in moved if span[0] < span[1]]


def _named(rng: random.Random, values: Values, sentence: str) -> tuple[str, Spans]:
    """A real sentence, every second time with a name in the place of its first "she", "the patient" and the like."""
    spoken_of = _SPOKEN_OF.search(sentence)
    if spoken_of is None or rng.random() < 0.5:
        return sentence, []
    title = values.pick("", "", "", "", "Mr. ", "Ms. ", "Mrs ", "Dr. ", "miss ", "doctor ")
    name = rng.choice((values.family, values.full_name))() if title else rng.choice((values.given, values.full_name, values.family, values.person))()  # fmt: skip
    start = spoken_of.start() + len(title)
    text = sentence[: spoken_of.start()] + title + name + sentence[spoken_of.end() :]
    return text, [(start, start + len(name), "PERSON")]


def _value(slot: str, values: Values, kept: dict[str, str], rng: random.Random) -> str:
    if slot.isdigit():
        return str(rng.randint(1, 10 ** int(slot) - 1))
    if slot in "wW":
        return values.word() if slot == "w" else values.word().capitalize()
    if slot in "FL" and slot in kept and rng.random() < 0.4:
        return kept[slot]
    makers: dict[str, Callable[[], str]] = {
        "P": values.person, "F": values.given, "L": values.family, "I": values.initials, "C": values.dicom_name,
        "O": lambda: places.organization(values), "T": lambda: places.town(values), "S": lambda: places.street(values),
        "Z": lambda: places.postcode(values), "D": values.date, "M": values.day_and_month, "N": values.identifier,
        "K": values.eponym, "G": values.drug, "H": values.phone, "A": lambda: values.number(90, 109),
    }  # fmt: skip
    value = makers[slot]()
    if slot in "FL":
        kept[slot] = value
    return value
