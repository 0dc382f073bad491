"""The tagger of our own, in numpy: summed embeddings of each word, dilated convolutions over words, one label a word.

Its arithmetic is that of ``cloud_service.training.ner.model``. A text of a thousand characters is some ten small matrix
products, so that neither a framework nor a session is needed; the vectors of words seen before are kept.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span, Step
from edge_agent.errors import PipelineUnavailableError
from edge_agent.flow import Entity
from partition.text.word_features import grams, identity, read_words

_MAX_KEPT = 50_000  # vectors of words; some twenty megabytes
_MAX_WORDS = 4000  # in one pass; longer texts go in pieces that overlap
_OVERLAP = 32  # words; no label depends on one further away than half of this
# Added to the score of every label but "O": a missed identifier is worse than a masked word. More where all letters of a line
# have one case, because a name does not stand out there. Chosen by what is missed and what clinical text loses (docs/decisions/0007).
CAUTION = 3.0
CAUTION_ONE_CASE = 4.5
_LINE_CASES = 4  # as partition.text.word_features counts them: small letters, both, capitals, none
_BOTH_CASES = 1

Array = NDArray[np.float32]


class Tagger:
    """Finds names, places, organisations, dates and numbers in English and Portuguese. Threads may share it."""

    def __init__(
        self, content: bytes, *, caution: float = CAUTION, one_case: float = CAUTION_ONE_CASE
    ) -> None:
        """Read the arrays.

        Args:
            content: A NumPy archive (``.npz``) of them.
            caution: Added to the score of every label but "none", in lines with letters of both cases.
            one_case: The same in other lines.

        Raises:
            PipelineUnavailableError: The content is no such archive.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):
            raise PipelineUnavailableError("tagger") from None
        self._words = _table(arrays, "words")
        self._grams = _table(arrays, "grams")
        self._looks = _table(arrays, "looks")
        self._first = (_float(arrays["first_gain"]), _float(arrays["first_shift"]))
        self._layers = [
            (
                int(dilation),
                _float(arrays[f"layer_{index}"]),
                _float(arrays[f"layer_{index}_shift"]),
                _float(arrays[f"norm_{index}_gain"]),
                _float(arrays[f"norm_{index}_shift"]),
            )
            for index, dilation in enumerate(arrays["dilations"])
        ]
        self._out = _float(arrays["out"])
        self._out_shift = _float(arrays["out_shift"])
        self._caution = np.full(_LINE_CASES, one_case, dtype=np.float32)
        self._caution[_BOTH_CASES] = caution
        rows = bytes(arrays["vocabulary"]).decode().split("\t")
        self._vocabulary = {word: row for row, word in enumerate(rows)}
        self._labels = [_label(name) for name in bytes(arrays["labels"]).decode().split("\t")]
        self._kept: dict[str, Array] = {}

    def find(self, document: MatchText) -> list[Span]:
        """Spans of one text, ``Step.NER``."""
        words = read_words(document.text, document.folded)
        if not words.folded:
            return []
        best = self._best(words.folded, words.looks)
        spans: list[Span] = []
        previous: Entity | None = None
        for index, label in enumerate(best):
            entity, begins = self._labels[label]
            if entity is None:
                previous = None
                continue
            start, end = words.starts[index], words.ends[index]
            if previous is entity and not begins:
                spans[-1] = Span(spans[-1].start, end, entity, Step.NER)
            else:
                spans.append(Span(start, end, entity, Step.NER))
            previous = entity
        return spans

    def _best(self, folded: list[str], looks: NDArray[np.int64]) -> list[int]:
        if len(folded) <= _MAX_WORDS:
            return self._scores(folded, looks).argmax(axis=1).tolist()  # type: ignore[no-any-return]
        best: list[int] = []
        for begin in range(0, len(folded), _MAX_WORDS):
            first = max(0, begin - _OVERLAP)
            last = min(len(folded), begin + _MAX_WORDS + _OVERLAP)
            scores = self._scores(folded[first:last], looks[first:last])
            labels = scores.argmax(axis=1)[begin - first :][:_MAX_WORDS]
            best.extend(labels.tolist())
        return best

    def _scores(self, folded: list[str], looks: NDArray[np.int64]) -> Array:
        """Scores ``(words, labels) float32``."""
        x = np.array([self._vector(word) for word in folded], dtype=np.float32)
        x += self._looks[looks]
        x = _normal(x, *self._first)
        size, width = x.shape
        for dilation, weight, shift, gain, offset in self._layers:
            window = np.zeros((size, 3 * width), dtype=np.float32)
            window[dilation:, :width] = x[: max(0, size - dilation)]
            window[:, width : 2 * width] = x
            window[: max(0, size - dilation), 2 * width :] = x[dilation:]
            inner = window @ weight
            inner += shift
            np.maximum(inner, 0.0, out=inner)
            x = _normal(x + inner, gain, offset)
        scores: Array = x @ self._out + self._out_shift
        scores[:, 1:] += self._caution[looks % _LINE_CASES, None]
        return scores

    def _vector(self, word: str) -> Array:
        kept = self._kept.get(word)
        if kept is None:
            kept = self._words[identity(word, self._vocabulary)] + self._grams[grams(word)].sum(0)
            if len(self._kept) >= _MAX_KEPT:  # ordinary words come back at once
                self._kept = {}
            self._kept[word] = kept
        return kept


def _normal(x: Array, gain: Array, offset: Array) -> Array:
    """Layer normalisation (Ba et al. 2016, epsilon as torch has it)."""
    x = x - x.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", x, x)[:, None] / x.shape[1]
    x *= 1.0 / np.sqrt(variance + 1e-5)
    x *= gain
    x += offset
    return x


def _float(array: NDArray[Any]) -> Array:
    return np.ascontiguousarray(array, dtype=np.float32)


def _table(arrays: dict[str, Any], name: str) -> Array:
    return _float(arrays[name].astype(np.float32) * arrays[f"{name}_scale"].astype(np.float32))


def _label(name: str) -> tuple[Entity | None, bool]:
    place, _, entity = name.partition("-")
    return (Entity(entity), place == "B") if entity else (None, False)
