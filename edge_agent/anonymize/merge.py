"""Merge: union of all steps, longest wins, then step order; neighbours of one kind are joined. No found character is lost."""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

# Between spans of one place, length and step: what has the sharper form first.
_PRECEDENCE = {
    entity: rank
    for rank, entity in enumerate(
        (
            Entity.EMAIL,
            Entity.URL,
            Entity.IP_ADDRESS,
            Entity.PHONE,
            Entity.DATE,
            Entity.AGE,
            Entity.ID,
            Entity.LOCATION,
            Entity.ORGANIZATION,
            Entity.PERSON,
        )
    )
}
_JOINS = {
    Entity.PERSON: (" ", "\n", ", ", "^", "-", "=", " - ", "·"),
    Entity.ORGANIZATION: (" ", "\n", "-", " & "),
    Entity.LOCATION: (" ", "\n"),
    Entity.DATE: (" ", "-", "/"),
    Entity.ID: ("-", "/", "."),
    Entity.PHONE: ("-", " "),
}


def merge(spans: Iterable[Span], text: str) -> list[Span]:
    """Disjoint spans in the order of the text."""
    ordered = sorted(
        {span for span in spans if span.start < span.end},
        key=lambda s: (s.step is Step.NER, s.start - s.end, s.step, _PRECEDENCE[s.entity], s.start),
    )
    taken: list[Span] = []
    owner: dict[int, bool] = {}
    for span in ordered:
        for start, end in _free(span, owner):
            least = 1
            if span.step is Step.NER:  # a crumb that a model left beside a better span
                least = 2
                if (start, end) != (span.start, span.end):
                    start, end = _trim(text, start, end)
            if sum(c.isalnum() for c in text[start:end]) >= least:
                taken.append(Span(start, end, span.entity, span.step))
                owner.update(dict.fromkeys(range(start, end), True))
    taken.sort(key=lambda span: span.start)
    return _joined(taken, text)


def _free(span: Span, owner: dict[int, bool]) -> list[tuple[int, int]]:
    """The runs of the span that no better span has."""
    runs: list[tuple[int, int]] = []
    start = -1
    for position in range(span.start, span.end):
        if position in owner:
            if start >= 0:
                runs.append((start, position))
            start = -1
        elif start < 0:
            start = position
    if start >= 0:
        runs.append((start, span.end))
    return runs


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return start, end


def _joined(spans: list[Span], text: str) -> list[Span]:
    out: list[Span] = []
    for span in spans:
        if out and out[-1].entity is span.entity:
            last = out[-1]
            between = text[last.end : span.start]
            if (not between and span.entity is not Entity.AGE) or (
                between in _JOINS.get(span.entity, ()) and _belongs(text, last, span, between)
            ):
                out[-1] = Span(last.start, span.end, span.entity, min(last.step, span.step))
                continue
        out.append(span)
    return out


def _belongs(text: str, left: Span, right: Span, between: str) -> bool:
    if between == ", ":  # "Smith, John" is one; "John Smith, Mary Jones" are two
        return " " not in text[left.start : left.end]
    if between == "\n" and left.entity is Entity.PERSON:
        return " " not in text[left.start : left.end] or " " not in text[right.start : right.end]
    return True
