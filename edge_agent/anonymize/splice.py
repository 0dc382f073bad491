"""Splicing: surrogates into the original text, so that restoring gives back exactly what stood there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.date_shift import DateShift
from edge_agent.anonymize.span import Span, Step
from edge_agent.anonymize.surrogates import SurrogateBook
from edge_agent.flow import Entity
from edge_agent.restore import restore, surrogate_forms
from edge_agent.vault import Vault

_MASK = (
    "\u25a0"  # neither letter nor digit nor space: no pattern takes it for a part of an identifier
)
_BRACKETS = "[]［］【】\\"


@dataclass(frozen=True, slots=True)
class Replacement:
    """One span of the input and what stands there now."""

    start: int
    end: int
    entity: Entity
    surrogate: str


def to_input(document: MatchText, spans: list[Span]) -> list[Span]:
    """Spans of the text for matching as disjoint spans of the input, with what already looks like a surrogate."""
    moved = [Span(*document.to_input(s.start, s.end), s.entity, s.step) for s in spans]
    moved += [
        Span(start, end, Entity.ID, Step.KNOWN) for start, end in surrogate_forms(document.original)
    ]
    moved.sort(key=lambda s: (s.start, -s.end))
    out: list[Span] = []
    for span in moved:
        if out and span.start < out[-1].end:
            if span.end > out[-1].end:
                out[-1] = Span(out[-1].start, span.end, out[-1].entity, out[-1].step)
        else:
            out.append(span)
    return out


def masked(document: MatchText, spans: list[Span]) -> MatchText:
    """The text for matching with every span of the input blotted out; positions stay."""
    text, folded = document.text, document.folded
    if document.starts is None or document.ends is None:
        places = [(span.start, span.end) for span in spans]
    else:
        places = [
            (bisect_right(document.ends, span.start), bisect_left(document.starts, span.end))
            for span in spans
        ]
    return MatchText(
        document.original,
        _blotted(text, places),
        _blotted(folded, places),
        document.starts,
        document.ends,
    )


def _blotted(text: str, places: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    position = 0
    for start, end in places:
        pieces.append(text[position:start])
        pieces.append(_MASK * (end - start))
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def splice(
    original: str,
    spans: list[Span],
    book: SurrogateBook,
    vault: Vault,
    shift: DateShift | None = None,
) -> tuple[str, tuple[Replacement, ...]]:
    """Replace every span by its surrogate, or a date by a shifted one."""
    spans = _unambiguous(original, spans)
    pieces: list[str] = []
    replacements: list[Replacement] = []
    position = 0
    for span in spans:
        value = original[span.start : span.end]
        moved = shift.shifted(value) if shift and span.entity is Entity.DATE else None
        if moved is not None and vault.put_literal(moved, value):
            surrogate = moved
        else:
            surrogate = book.surrogate(span.entity, value, vault)
        pieces.append(original[position : span.start])
        pieces.append(surrogate)
        replacements.append(Replacement(span.start, span.end, span.entity, surrogate))
        position = span.end
    pieces.append(original[position:])
    return "".join(pieces), tuple(replacements)


def restores(text: str, original: str, vault: Vault) -> bool:
    """Whether restoring gives back the input."""
    return restore(text, vault).text == original


def _unambiguous(original: str, spans: list[Span]) -> list[Span]:
    """Take in brackets and backslashes next to a span, where surrogate and surroundings would read as another form."""
    out: list[Span] = []
    for span in spans:
        start, end = span.start, span.end
        floor = out[-1].end if out else 0
        if (
            (
                original[start - 1 : start] in tuple(_BRACKETS)
                and original[end : end + 1] in tuple(_BRACKETS)
            )
            or original[start - 1 : start] == "\\"
            or original[end : end + 1] == "\\"
        ):
            while start > floor and original[start - 1] in _BRACKETS:
                start -= 1
            while end < len(original) and original[end] in _BRACKETS:
                end += 1
        if out and start < out[-1].end:
            start = out[-1].end
        if start < end:
            out.append(Span(start, end, span.entity, span.step))
    # A bracket that was taken in may belong to the next span as well.
    disjoint: list[Span] = []
    for span in out:
        start = max(span.start, disjoint[-1].end) if disjoint else span.start
        if start < span.end:
            disjoint.append(Span(start, span.end, span.entity, span.step))
    return disjoint
