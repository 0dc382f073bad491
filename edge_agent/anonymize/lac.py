"""Baidu LAC, a Chinese lexical analyser, as a finder of spans: ONNX graph on the CPU, Viterbi in numpy.

The files are those of the model store's entry ``lac``: ``lac_encoder.onnx``, ``lac_crf_transitions.npy``, ``word.dic``
(id TAB character), ``tag.dic`` (id TAB tag), ``q2b.dic`` (full width or traditional TAB usual form).
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

_ENTITIES = {"PER": Entity.PERSON, "LOC": Entity.LOCATION, "ORG": Entity.ORGANIZATION}
_MAX_CHARACTERS = 400  # of one pass; the encoder's cost grows linearly, its memory too
_BREAK = re.compile(r"[。;!?\n]")


class LacTagger:
    """The tagger. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(folder / "lac_encoder.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._vocabulary = {value: int(key) for key, value in _rows(folder / "word.dic")}
        self._unknown = self._vocabulary.get("OOV", 0)
        self._tags = {int(key): value for key, value in _rows(folder / "tag.dic")}
        self._usual = dict(_rows(folder / "q2b.dic"))
        self._transitions: NDArray[np.float32] = np.load(folder / "lac_crf_transitions.npy")
        self._lock = threading.Lock()

    def find(self, document: MatchText) -> list[Span]:
        """Persons, places and organisations of one text."""
        spans: list[Span] = []
        for start, end in _chunks(document.text):
            spans.extend(self._chunk(document.text, start, end))
        return spans

    def _chunk(self, text: str, start: int, end: int) -> list[Span]:
        ids = np.array(
            [[self._vocabulary.get(self._usual.get(c, c), self._unknown) for c in text[start:end]]],
            dtype=np.int64,
        )
        length = np.array([end - start], dtype=np.int64)
        with self._lock:
            emissions = self._session.run(None, {"token_ids": ids, "length": length})[0][0]
        tags = _viterbi(emissions, self._transitions)
        spans: list[Span] = []
        for offset, tag in enumerate(tags):
            name, _, place = self._tags.get(tag, "O").rpartition("-")
            entity = _ENTITIES.get(name)
            if entity is None:
                continue
            position = start + offset
            if place == "I" and spans and spans[-1].end == position and spans[-1].entity is entity:
                spans[-1] = Span(spans[-1].start, position + 1, entity, Step.NER)
            else:
                spans.append(Span(position, position + 1, entity, Step.NER))
        return spans


def _viterbi(emissions: NDArray[np.float32], transitions: NDArray[np.float32]) -> list[int]:
    """The best path through a linear-chain CRF."""
    scores = emissions[0]
    pointers = np.empty((len(emissions), emissions.shape[1]), dtype=np.int64)
    for step in range(1, len(emissions)):
        table = scores[:, None] + transitions
        pointers[step] = table.argmax(axis=0)
        scores = table[pointers[step], np.arange(table.shape[1])] + emissions[step]
    path = [int(scores.argmax())]
    for step in range(len(emissions) - 1, 0, -1):
        path.append(int(pointers[step, path[-1]]))
    path.reverse()
    return path


def _chunks(text: str) -> list[tuple[int, int]]:
    """Whole sentences of at most the limit, where sentences are that short."""
    chunks: list[tuple[int, int]] = []
    start, last = 0, 0
    for match in _BREAK.finditer(text):
        if match.end() - start > _MAX_CHARACTERS and last > start:
            chunks.append((start, last))
            start = last
        last = match.end()
    if len(text) - start > _MAX_CHARACTERS and last > start:
        chunks.append((start, last))
        start = last
    if start < len(text):
        chunks.append((start, len(text)))
    limited: list[tuple[int, int]] = []
    for begin, end in chunks:
        limited.extend(
            (i, min(i + _MAX_CHARACTERS, end)) for i in range(begin, end, _MAX_CHARACTERS)
        )
    return limited


def _rows(path: Path) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        key, tab, value = line.partition("\t")
        if tab:
            rows.append((key, value))
    return rows
