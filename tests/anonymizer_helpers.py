"""Anonymizers for tests: rules only, the Portuguese pipeline that ships with the package, and hand-written notes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_agent.anonymize.alignment import MatchText, align
from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.anonymize.registry import RECOGNIZERS, Recognizer, recognize
from edge_agent.anonymize.residual import SecondLook, find_residual
from edge_agent.anonymize.span import Span
from edge_agent.flow import KnownValue, Prepared, Request
from edge_agent.vault import Vault
from partition.task import Message, Role, Task, TaskKind

NOTES = Path(__file__).parent / "data" / "pii"
_MARK = re.compile(r"⟦([A-Z_]+):(.*?)⟧", re.DOTALL)


class NoHead:
    """A statistical model that finds nothing: what is left is the rules."""

    def find(self, document: MatchText) -> list[Span]:
        return []


def rules_only(
    *,
    recognizers: tuple[Recognizer, ...] = RECOGNIZERS,
    timeout_s: float = 5.0,
    second_look: SecondLook = find_residual,
) -> Anonymizer:
    """All languages, no pipeline: fast and deterministic."""
    return Anonymizer(
        {"en": (NoHead(),), "pt": (NoHead(),), "zh": (NoHead(),)},
        version="rules",
        timeout_s=timeout_s,
        recognizers=recognizers,
        second_look=second_look,
        today=lambda: datetime.date(2026, 1, 1),
    )


def prepared(
    *texts: str, known: tuple[KnownValue, ...] = (), language: str | None = None
) -> Prepared:
    """A request of some user messages."""
    request = Request(id="r-1", task="assistant", text=texts[0], known=known, language=language)
    return Prepared(
        request=request,
        task=Task(name="assistant", kind=TaskKind.GENERATE),
        messages=tuple(Message(role=Role.USER, text=text) for text in texts),
        num_characters=sum(map(len, texts)),
    )


def found(text: str) -> dict[str, list[str]]:
    """What the recognizers find, by entity."""
    document = align(text)
    result: dict[str, list[str]] = {}
    for span in recognize(document):
        start, end = document.to_input(span.start, span.end)
        result.setdefault(span.entity.value, []).append(text[start:end])
    return result


@dataclass(frozen=True)
class Note:
    """A hand-written note with its labelled spans ``(start, end, entity)``."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


@cache
def held_out_notes(language: str) -> tuple[Note, ...]:
    """Notes whose names, templates and number formats are in no training or development data."""
    notes = []
    for marked in (
        (NOTES / f"{language}.txt").read_text(encoding="utf-8").rstrip("\n").split("\n====\n")
    ):
        text, spans, position = "", [], 0
        for match in _MARK.finditer(marked):
            text += marked[position : match.start()]
            spans.append((len(text), len(text) + len(match[2]), match[1]))
            text += match[2]
            position = match.end()
        notes.append(Note(text + marked[position:], tuple(spans)))
    return tuple(notes)


@dataclass(frozen=True)
class Score:
    """Recall of spans by entity, precision of characters, and what clean notes lost."""

    recall: dict[str, float]
    precision: float
    character_recall: float
    clean_loss: float

    @property
    def f2(self) -> float:
        p, r = self.precision, self.character_recall
        return 5 * p * r / (4 * p + r) if p + r else 0.0


def score(anonymizer: Anonymizer, notes: Iterable[Note], language: str) -> Score:
    """Measure an anonymizer on labelled notes."""
    total: dict[str, int] = {}
    hits: dict[str, int] = {}
    right = wrong = missed = clean = lost = 0
    for note in notes:
        outcome = anonymizer.replace((note.text,), Vault(), language=language)
        covered = {i for r in outcome.replacements[0] for i in range(r.start, r.end)}
        gold: set[int] = set()
        for start, end, entity in note.spans:
            positions = {i for i in range(start, end) if not note.text[i].isspace()}
            gold |= positions
            total[entity] = total.get(entity, 0) + 1
            hits[entity] = hits.get(entity, 0) + (positions <= covered)
        covered = {i for i in covered if not note.text[i].isspace()}
        right += len(covered & gold)
        wrong += len(covered - gold)
        missed += len(gold - covered)
        if not note.spans:
            clean += sum(not c.isspace() for c in note.text)
            lost += len(covered)
    return Score(
        recall={entity: hits[entity] / count for entity, count in total.items()},
        precision=right / max(1, right + wrong),
        character_recall=right / max(1, right + missed),
        clean_loss=lost / max(1, clean),
    )
