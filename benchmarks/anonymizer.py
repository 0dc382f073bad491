"""The anonymizer beside vanilla Presidio (with spaCy's en_core_web_md) and scrubadub, on labelled notes.

"held-out" notes come from :mod:`benchmarks._held_out`: names, templates and formats that no model was trained on; the rules were
corrected after looking at some of them, so these figures are an upper bound for notes of an unknown hospital. "clean" notes are
clinical text without a single identifier, dense in drugs and eponyms.

Quality is counted in characters and in whole identifiers: an identifier is found when every character of it that is no space
is covered; anything else is a leak. Speed is processor time, measured in turn in this
process, so that other load on the machine does not count.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks._held_out.generate import clean_notes, held_out_notes
from benchmarks.line import Line, Options
from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.vault import Vault
from partition.store.model_store import ModelStore

_LANGUAGES = ("en", "pt", "zh")
_REPORT_CHARACTERS = 1000
_ROUNDS, _QUICK_ROUNDS = 60, 15
_HELD_OUT, _QUICK_HELD_OUT = 240, 72  # notes a language
_SOAK, _QUICK_SOAK = 10_000, 1000  # notes
_PIPELINE = "en_core_web_md"  # Presidio's; ours needs none
_Spans = list[tuple[int, int]]
_Finder = Callable[[str], _Spans]


@dataclass(frozen=True, slots=True)
class _Note:
    text: str
    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class _Quality:
    recall: dict[str, float]
    precision: float
    character_recall: float
    leaks: int
    identifiers: int
    clean_loss: float

    @property
    def f2(self) -> float:
        p, r = self.precision, self.character_recall
        return 5 * p * r / (4 * p + r) if p + r else 0.0


def run(options: Options) -> Iterator[Line]:
    """Quality for each language, then speed and memory for English."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    store = ModelStore()
    anonymizer = Anonymizer.open(store, timeout_s=60)
    peers = dict(_peers(store))
    for language in _LANGUAGES:
        notes = _notes(options.data / "pii" / f"{language}.jsonl", 60 if options.quick else None)
        ours = _quality(_ours(anonymizer, language), notes)
        yield from _absolute(language, ours, len(notes))
        if language == "en":
            for name, finder in peers.items():
                yield from _compared(name, ours, _quality(finder, notes), len(notes))
    for language in _LANGUAGES:
        yield from _held_out(anonymizer, peers, language, quick=options.quick)
    notes = _notes(options.data / "pii" / "en.jsonl", None)
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    yield from _speed(_ours(anonymizer, "en"), peers, notes, rounds)
    yield from _memory(anonymizer, notes, _QUICK_SOAK if options.quick else _SOAK)


def _memory(anonymizer: Anonymizer, notes: list[_Note], count: int) -> Iterator[Line]:
    """Resident memory with three languages, and how much it grows from the first fifth of many notes to the last."""
    find = _ours(anonymizer, "en")
    early = 0.0
    for index in range(count):
        find(notes[index % len(notes)].text + f"\n{index}")  # no text comes twice
        if index == count // 5:
            gc.collect()
            early = _resident_mib()
    gc.collect()
    late = _resident_mib()
    yield Line(case="memory with three languages", ours=late, unit="MiB", runs=count, less_is_better=True)  # fmt: skip
    yield Line(case="memory grown over the last four fifths of the notes", ours=round(late - early, 1), unit="MiB", runs=count, less_is_better=True)  # fmt: skip


def _held_out(
    anonymizer: Anonymizer, peers: dict[str, _Finder], language: str, *, quick: bool
) -> Iterator[Line]:
    count = _QUICK_HELD_OUT if quick else _HELD_OUT
    notes = [_Note(n.text, n.spans) for n in held_out_notes(language, count)]
    notes += [_Note(n.text, n.spans) for n in clean_notes(language)]
    case = f"{language} held-out"
    ours = _quality(_ours(anonymizer, language), notes)
    yield from _absolute(case, ours, len(notes))
    if language == "en":
        for name, finder in peers.items():
            theirs = _quality(finder, notes)
            for line in _compared(name, ours, theirs, len(notes)):
                yield replace(line, case=f"{line.case} held-out")


def _absolute(language: str, quality: _Quality, num_notes: int) -> Iterator[Line]:
    for entity, recall in sorted(quality.recall.items()):
        yield Line(
            case=f"recall {entity} {language}", ours=round(recall, 4), unit="ratio", runs=num_notes
        )
    yield Line(
        case=f"precision {language}", ours=round(quality.precision, 4), unit="ratio", runs=num_notes
    )
    yield Line(case=f"F2 {language}", ours=round(quality.f2, 4), unit="ratio", runs=num_notes)
    yield Line(
        case=f"leaks {language} of {quality.identifiers}",
        ours=quality.leaks,
        unit="identifiers",
        runs=num_notes,
        less_is_better=True,
    )
    yield Line(
        case=f"clean text lost {language}",
        ours=round(quality.clean_loss, 5),
        unit="ratio",
        runs=num_notes,
        less_is_better=True,
    )


def _compared(peer: str, ours: _Quality, theirs: _Quality, num_notes: int) -> Iterator[Line]:
    rows = (
        ("F2", ours.f2, theirs.f2, "ratio", False),
        ("precision", ours.precision, theirs.precision, "ratio", False),
        ("recall of characters", ours.character_recall, theirs.character_recall, "ratio", False),
        (f"leaks of {ours.identifiers}", ours.leaks, theirs.leaks, "identifiers", True),
        ("clean text lost", ours.clean_loss, theirs.clean_loss, "ratio", True),
    )
    for case, mine, other, unit, less in rows:
        yield Line(
            case=f"{case} en",
            ours=round(mine, 5),
            theirs=round(other, 5),
            peer=peer,
            unit=unit,
            runs=num_notes,
            less_is_better=less,
        )


def _speed(
    ours: _Finder, peers: dict[str, _Finder], notes: list[_Note], rounds: int
) -> Iterator[Line]:
    """Each round anonymizes the same report with ours and with every peer, one after the other."""
    reports = _reports(notes)
    finders = {"ours": ours, **peers}
    times: dict[str, list[float]] = {name: [] for name in finders}
    for finder in finders.values():
        finder(reports[0])
    gc.collect()
    for index in range(rounds):
        report = reports[index % len(reports)]
        for name, finder in finders.items():
            started_s = time.process_time()
            finder(report)
            times[name].append(time.process_time() - started_s)
    mine = statistics.median(times["ours"])
    for name in peers:
        theirs = statistics.median(times[name])
        yield Line(
            case="characters per processor second, 1,000-character report",
            ours=round(_REPORT_CHARACTERS / mine),
            theirs=round(_REPORT_CHARACTERS / theirs),
            peer=name,
            unit="characters/s",
            runs=rounds,
        )
        yield Line(
            case="processor time p50, 1,000-character report",
            ours=round(mine * 1e3, 2),
            theirs=round(theirs * 1e3, 2),
            peer=name,
            unit="ms",
            runs=rounds,
            less_is_better=True,
        )
        yield Line(
            case="processor time p95, 1,000-character report",
            ours=round(_p95(times["ours"]) * 1e3, 2),
            theirs=round(_p95(times[name]) * 1e3, 2),
            peer=name,
            unit="ms",
            runs=rounds,
            less_is_better=True,
        )


def _ours(anonymizer: Anonymizer, language: str) -> _Finder:
    def find(text: str) -> _Spans:
        outcome = anonymizer.replace((text,), Vault(), language=language)
        return [(r.start, r.end) for r in outcome.replacements[0]]

    return find


def _peers(store: ModelStore) -> Iterator[tuple[str, _Finder]]:
    """Whichever peers are installed (extra ``bench``)."""
    with suppress(ImportError):
        yield (
            f"presidio-analyzer {version('presidio-analyzer')} + en_core_web_md",
            _presidio(store.get(_PIPELINE)),
        )
    with suppress(ImportError):
        yield f"scrubadub {version('scrubadub')}", _scrubadub()


def _presidio(pipeline: Path) -> _Finder:
    os.environ["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] = ""  # no look-up on the network
    for name in ("presidio-analyzer", "decision_process", "tldextract"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    nlp_engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": str(pipeline)}])
    engine: Any = AnalyzerEngine(nlp_engine=nlp_engine, supported_languages=["en"])
    return lambda text: [(r.start, r.end) for r in engine.analyze(text, language="en")]


def _scrubadub() -> _Finder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scrubadub

        scrubber: Any = scrubadub.Scrubber()
    return lambda text: [(filth.beg, filth.end) for filth in scrubber.iter_filth(text)]


def _quality(find: _Finder, notes: Iterable[_Note]) -> _Quality:
    total: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    right = wrong = missed = clean = lost = 0
    for note in notes:
        solid = {i for i, c in enumerate(note.text) if not c.isspace()}
        covered = {i for start, end in find(note.text) for i in range(start, end)} & solid
        gold: set[int] = set()
        for start, end, entity in note.spans:
            positions = set(range(start, end)) & solid
            gold |= positions
            total[entity] += 1
            hits[entity] += positions <= covered
        right += len(covered & gold)
        wrong += len(covered - gold)
        missed += len(gold - covered)
        if not note.spans:
            clean += len(solid)
            lost += len(covered)
    return _Quality(
        recall={entity: hits[entity] / count for entity, count in total.items()},
        precision=right / max(1, right + wrong),
        character_recall=right / max(1, right + missed),
        leaks=total.total() - hits.total(),
        identifiers=total.total(),
        clean_loss=lost / max(1, clean),
    )


def _notes(path: Path, limit: int | None) -> list[_Note]:
    notes = []
    for line in path.read_text(encoding="utf-8").splitlines()[:limit]:
        row = json.loads(line)
        notes.append(
            _Note(row["text"], tuple((s["start"], s["end"], s["entity"]) for s in row["spans"]))
        )
    return notes


def _reports(notes: list[_Note]) -> list[str]:
    """Notes joined to texts of a thousand characters."""
    joined = "\n\n".join(note.text for note in notes)
    return [
        joined[i : i + _REPORT_CHARACTERS]
        for i in range(0, len(joined) - _REPORT_CHARACTERS, _REPORT_CHARACTERS)
    ]


def _p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def _resident_mib() -> float:
    import psutil

    return round(psutil.Process().memory_info().rss / 2**20, 1)
