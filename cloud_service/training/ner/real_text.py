"""Real text beside the invented notes: published corpora with labelled names, and clinical text almost without them.

Each file is an argument of the training command; nothing is fetched. Where a corpus does not label a kind of identifier, the
words that could be one get no say (``Note.unsure``).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from cloud_service.training.ner.corpus import Note, joined
from partition.text.months import MONTHS

_PERSON, _LOCATION, _ORGANIZATION, _UNSURE = "PERSON", "LOCATION", "ORGANIZATION", "?"
_CONLL = {
    "PER": _PERSON, "person": _PERSON, "LOC": _LOCATION, "location": _LOCATION, "GPE": _LOCATION,
    "ORG": _ORGANIZATION, "corporation": _ORGANIZATION, "group": _UNSURE, "product": _UNSURE,
    "creative-work": _UNSURE, "MISC": _UNSURE, "NPROP": _UNSURE, "NUM": _UNSURE,
}  # fmt: skip
_SENTENCES_A_NOTE = 4
_MONTH_BEGINNINGS = sorted({name[:3].capitalize() for names in MONTHS.values() for name in names})
_DIGITS_OR_MONTH = re.compile(  # in Portuguese a month is written small
    rf"\d|^(?:{'|'.join(_MONTH_BEGINNINGS)})[a-zç]{{0,6}}\W*$|^(?:{'|'.join(MONTHS['pt'])})\W*$"
)
_NOTE_CHARACTERS = 1500
_MAYBE = re.compile(
    r"(?:\b(?:[Dd]rs?|[Mm]rs?|[Mm]s|[Pp]rof)\.?|DR\.?|MR\.?|MRS\.?|MS\.?|[Dd]octor|[Mm]iss) [A-Za-z.]+(?: [A-Z][a-zA-Z]+)?|"
    r"(?:\b[A-Z][\w.&-]+ ){1,4}(?:[Hh]ospital|HOSPITAL|[Cc]linic|CLINIC|[Cc]enter|CENTER|[Uu]niversity|[Ii]nstitute|[Mm]edical|[Ss]chool|[Ss]tore)\b|"
    r"\b[A-Z][a-z]+, (?:[A-Z]{2}\b|[A-Z][a-z]+)|\b[A-Z][a-z]+, M\.?D\b|\b(?:in|from|to|at) [A-Z][a-z]+|\b(?:hi|hey|hello|bye|thanks|named?) ?,? [A-Za-z]+"
)
_SPEAKER = re.compile(r"^(?:\[?(?:doctor|patient|guest_\w+|nurse)\]?:?)", re.IGNORECASE)
_INTRODUCED = re.compile(
    r"\b((?:[A-Z][a-zA-Z'-]+ ){1,3}?[A-Z][a-zA-Z'-]+|[A-Z][a-z'-]+) is (?:a|an) (?:very )?(?:pleasant )?(?:\d\d?|[a-z]+)[- ]year"
)
_TITLED = re.compile(r"\b(?:[Dd]r|[Mm]rs?|[Mm]s)\.? ((?:[A-Z][a-z]+|[a-z]{3,}))\b")
_ORDINARY = frozenset("the patient this that she here today he it who".split())
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def conll_notes(path: Path) -> Iterator[Note]:
    """Sentences of a CoNLL file, ``word<TAB or space>tag``, some to a note; numbers and dates have no say."""
    yield from _labelled(_sentences(path))


def tagged_notes(path: Path) -> Iterator[Note]:
    """Sentences with parts of speech, ``word_TAG``, one a line (Mac-Morpho): what is a proper noun has no say."""

    def sentences() -> Iterator[tuple[list[str], list[str]]]:
        for line in path.read_text(encoding="utf-8").splitlines():
            pairs = [token.rpartition("_")[::2] for token in line.split()]
            yield (
                [word for word, _ in pairs],
                [f"I-{tag}" if tag in ("NPROP", "NUM") else "O" for _, tag in pairs],
            )

    yield from _labelled(sentences())


def biomedical_notes(path: Path) -> Iterator[Note]:
    """Abstracts with labelled drugs and diseases (IOB): those are no names; other words with a capital inside a sentence have no say."""

    def sentences() -> Iterator[tuple[list[str], list[str]]]:
        for words, tags in _sentences(path):
            unsure = [
                tag == "O" and index > 0 and word[:1].isupper() and not word[1:].isupper()
                for index, (word, tag) in enumerate(zip(words, tags, strict=True))
            ]
            yield words, ["I-MISC" if maybe else "O" for maybe in unsure]

    yield from _labelled(sentences())


def clinical_notes(path: Path) -> Iterator[Note]:
    """Clinical text, its few names found by how they are introduced: "Ann Lee is a 60-year-old", "Dr. Lee".

    Numbers, what a title or a greeting precedes and what precedes a kind of house have no say; every other word is no
    identifier.
    """
    for text in read_texts(path):
        names = _introduced(text)
        for start in range(0, len(text), _NOTE_CHARACTERS):
            piece = text[start : start + _NOTE_CHARACTERS]
            spans = tuple(
                (m.start(), m.end(), _PERSON)
                for m in re.finditer(r"[^\W\d_]+(?:['-][^\W\d_]+)*", piece)
                if m.group() in names or (m.group().lower() in names and len(m.group()) > 4)
            )
            unsure = [m.span() for m in _MAYBE.finditer(piece)]
            unsure += [
                m.span() for m in re.finditer(r"\S+", piece) if _DIGITS_OR_MONTH.search(m.group())
            ]
            yield Note(piece, _neighbours(piece, spans), tuple(unsure))


def clean_sentences(path: Path) -> Iterator[str]:
    """Sentences of clinical text that name nobody and nothing."""
    for text in read_texts(path):
        names = _introduced(text)
        for sentence in _SENTENCE.split(text):
            plain = _SPEAKER.sub("", sentence).strip()
            if not 15 < len(plain) < 220 or re.search(r"\d{3}|\d/\d", plain):
                continue
            if _MAYBE.search(plain) or any(_DIGITS_OR_MONTH.match(w) for w in plain.split()):
                continue
            if not any(word in names for word in re.findall(r"[^\W\d_]+", plain)):
                yield plain


def read_texts(path: Path) -> Iterator[str]:
    """Texts of a JSONL file (``text``), or of the columns that hold text of a CSV one."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for column in ("text", "section_text", "note", "dialogue"):
                    if row.get(column):
                        yield row[column].replace("\r", "")
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["text"]


def _introduced(text: str) -> set[str]:
    """Parts of the names that a text introduces, as written and in small letters."""
    found = {part for m in _INTRODUCED.finditer(text) for part in re.split(r"[ '-]", m[1])}
    found |= {m[1] for m in _TITLED.finditer(text) if m[1][0].isupper()}
    found = {
        part
        for part in found
        if len(part) > 2 and not part.isupper() and part.lower() not in _ORDINARY
    }
    return found | {part.lower() for part in found}


def _neighbours(
    text: str, spans: tuple[tuple[int, int, str], ...]
) -> tuple[tuple[int, int, str], ...]:
    """Spans that a single space parts are one."""
    out: list[tuple[int, int, str]] = []
    for start, end, entity in spans:
        if out and text[out[-1][1] : start] == " ":
            out[-1] = (out[-1][0], end, entity)
        else:
            out.append((start, end, entity))
    return tuple(out)


def _labelled(sentences: Iterator[tuple[list[str], list[str]]]) -> Iterator[Note]:
    group: list[tuple[list[str], list[str]]] = []
    for sentence in sentences:
        group.append(sentence)
        if len(group) == _SENTENCES_A_NOTE:
            yield _one_note(group)
            group = []
    if group:
        yield _one_note(group)


def _one_note(group: list[tuple[list[str], list[str]]]) -> Note:
    text = ""
    spans: list[tuple[int, int, str]] = []
    for words, tags in group:
        note = joined(words, tags, _CONLL)
        shift = len(text)
        text += note.text + " "
        spans.extend((s + shift, e + shift, x) for s, e, x in note.spans)
    sure = tuple(span for span in spans if span[2] != _UNSURE)
    unsure = [(s, e) for s, e, x in spans if x == _UNSURE]
    unsure += [m.span() for m in re.finditer(r"\S+", text) if _DIGITS_OR_MONTH.search(m.group())]
    return Note(text.rstrip(), sure, tuple(unsure))


def _sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = line.rstrip().rsplit(None, 1)
        if len(parts) == 2:
            word, tag = parts
            words.append(word.replace("\t", ""))
            tags.append(tag if tag == "O" or "-" in tag[:2] else f"I-{tag}")
        elif words:
            yield words, tags
            words, tags = [], []
    if words:
        yield words, tags
