r"""Train the tagger for English and Portuguese and write it as one archive of arrays.

    python -m cloud_service.training.ner.train --lener ../shared/data/ner-pt --conll BTC.conll WNUT.conll --tagged macmorpho-*.txt \
        --clinical MTS-Dialog-TrainingSet.csv aci-bench-train.csv --biomedical BC5CDR.tsv NCBI-disease.tsv \
        --without benchmarks/_held_out/names.py --output edge_agent/anonymize/pipelines/latin.npz

One model reads both languages: their names are written alike, and a note may hold both. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_service.training.ner import templates_en, templates_pt
from cloud_service.training.ner.corpus import Note, NoteMaker, lener_notes, lener_words
from cloud_service.training.ner.model import LABELS, Tagger, export
from cloud_service.training.ner.names import english_words, load_names
from cloud_service.training.ner.real_text import (
    biomedical_notes,
    clean_sentences,
    clinical_notes,
    conll_notes,
    tagged_notes,
)
from partition.text.fold import fold
from partition.text.word_features import GRAMS, grams, identity, read_words

logger = logging.getLogger(__name__)

_VOCABULARY = 20_000
_BATCH_WORDS = 3000
_LEARN_RATE = 3e-3
_WORD_DROPOUT = 0.12  # of identities, so that letters and context carry a word too
_IGNORED = -100
_REPORT_EVERY = 200
_AS_ON_DEVICE = dict.fromkeys(
    (0x2018, 0x2019, 0xB4, 0x60), "'"
)  # as the text for matching has them
_AS_ON_DEVICE |= dict.fromkeys((0x2010, 0x2011, 0x2013, 0x2014), "-")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One note as arrays of one length: rows, looks, labels."""

    words: NDArray[np.int64]
    grams: NDArray[np.int64]
    looks: NDArray[np.int64]
    labels: NDArray[np.int64]


def main() -> None:
    """Read the arguments, train, write."""
    parser = argparse.ArgumentParser(description="Train the tagger of the anonymizer.")
    parser.add_argument("--lener", type=Path, help="folder of LeNER-Br")
    parser.add_argument("--conll", type=Path, nargs="*", default=[], help="files of labelled names")
    parser.add_argument(
        "--tagged", type=Path, nargs="*", default=[], help="parts of speech, word_TAG"
    )
    parser.add_argument(
        "--clinical", type=Path, nargs="*", default=[], help="reports, JSONL or CSV"
    )
    parser.add_argument("--biomedical", type=Path, nargs="*", default=[], help="abstracts, IOB")
    parser.add_argument("--without", type=Path, help="text whose words must not be learnt as names")
    parser.add_argument("--notes", type=int, default=20_000, help="synthetic notes a pass, English")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sources = Sources.read(options)
    vocabulary = sources.vocabulary()
    logger.info("vocabulary of %s words, %s real notes", len(vocabulary), len(sources.real))
    model = train(
        sources, vocabulary, notes=options.notes, passes=options.passes, seed=options.seed
    )
    export(model.eval(), vocabulary, options.output, recipe=recipe_of(options))
    logger.info("wrote %s bytes", options.output.stat().st_size)


def recipe_of(options: argparse.Namespace) -> str:
    """What a run is made of, as JSON: its settings, and the hash of every file that it read."""
    lener = [options.lener / "train.conll"] if options.lener else []
    without = [options.without] if options.without else []
    files = [
        *lener,
        *options.conll,
        *options.tagged,
        *options.clinical,
        *options.biomedical,
        *without,
    ]
    return json.dumps(
        {
            "seed": options.seed, "notes": options.notes, "passes": options.passes, "torch": torch.__version__,
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that is read once."""

    real: tuple[Note, ...]
    biomedical: tuple[Note, ...]  # half of them in each pass
    makers: dict[str, NoteMaker]

    @classmethod
    def read(cls, options: argparse.Namespace) -> Sources:
        """Read the corpora and the lists of names."""
        real: list[Note] = []
        words: set[str] = set()
        if options.lener is not None:
            real.extend(_grouped(list(lener_notes(options.lener / "train.conll"))))
            words |= lener_words(options.lener / "train.conll")
        for path in options.conll:
            real.extend(conll_notes(path))
        for path in options.tagged:
            notes = list(tagged_notes(path))
            words |= {
                w for note in notes for w in re.findall(r"[^\W\d_]{3,}", note.text) if w.islower()
            }
            real.extend(notes)
        clean: list[str] = []
        for path in options.clinical:
            real.extend(clinical_notes(path))
            clean.extend(clean_sentences(path))
        biomedical = [note for path in options.biomedical for note in biomedical_notes(path)]
        without = frozenset[str]()
        if options.without is not None:
            without = frozenset(_names_in(options.without.read_text(encoding="utf-8").lower()))
        makers = {
            "en": NoteMaker("en", load_names("en", english_words(), without=without), clean),
            "pt": NoteMaker(
                "pt", load_names("pt", words, without=without), _plain_sentences(templates_pt.CLEAN)
            ),
        }
        return cls(tuple(real), tuple(biomedical), makers)

    def vocabulary(self) -> dict[str, int]:
        """Rows of the words that stand outside of names: those of the templates, then the commonest of the corpora."""
        counts: Counter[str] = Counter()
        for note in (*self.real, *self.biomedical):
            counts.update(_plain_words(note))
        ours: Counter[str] = Counter()
        for templates in (templates_en, templates_pt):
            for text in (*templates.SENTENCES, *templates.CLEAN, *templates.RECORDS):
                ours.update(re.findall(r"[^\W\d_]+|[^\s\w]", fold(re.sub(r"\{\w\}", " ", text))))
        numbers = [f"#{size}" for size in range(1, 13)]
        known = [word for word, count in counts.most_common() if count > 1 and word not in ours]
        ordered = ["", *numbers, "\n", *sorted(ours), *known]
        return {word: row for row, word in enumerate(dict.fromkeys(ordered[:_VOCABULARY]))}


def train(
    sources: Sources, vocabulary: dict[str, int], *, notes: int, passes: int, seed: int
) -> Tagger:
    """New synthetic notes in every pass beside the same real ones; the rate rises, then falls linearly."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    model = Tagger(len(vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARN_RATE, weight_decay=0.01)
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=_IGNORED)
    cache: dict[str, tuple[int, tuple[int, ...]]] = {}
    real = [_example(note, vocabulary, cache) for note in sources.real]
    abstracts = [_example(note, vocabulary, cache) for note in sources.biomedical]
    done, started_s = 0, time.monotonic()
    total = 0
    for number in range(passes):
        examples = [*real, *abstracts[number % 2 :: 2]]
        for language, count in (("en", notes), ("pt", notes * 2 // 3)):
            made = sources.makers[language].notes(count, seed=seed * 1000 + number)
            examples.extend(_example(note, vocabulary, cache) for note in made)
        rng.shuffle(examples)
        total = total or passes * (1 + sum(len(e.words) for e in examples) // _BATCH_WORDS)
        losses: list[float] = []
        for batch in _batches(examples):
            for group in optimizer.param_groups:
                group["lr"] = _LEARN_RATE * min(1.0, (done + 1) / 100) * max(0.03, 1 - done / total)
            words, gram_rows, looks, labels, mask = _padded(batch)
            dropped = torch.rand(words.shape) < _WORD_DROPOUT
            scores = model(words.masked_fill(dropped, 0), gram_rows, looks, mask)
            loss = loss_of(scores.view(-1, len(LABELS)), labels.view(-1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            done += 1
            if done % _REPORT_EVERY == 0:
                logger.info(
                    "step %s of %s: loss %.4f, %.0f s", done, total,
                    sum(losses[-_REPORT_EVERY:]) / len(losses[-_REPORT_EVERY:]), time.monotonic() - started_s,
                )  # fmt: skip
        logger.info("pass %s: loss %.4f", number + 1, sum(losses) / len(losses))
    return model


def _plain_sentences(templates: Sequence[str]) -> list[str]:
    return [template for template in templates if "{" not in template]


def _names_in(text: str) -> Iterator[str]:
    """Each word, and each row of words between quotes or separators."""
    yield from re.findall(r"[^\W\d_]{3,}", text)
    yield from (row.strip() for row in re.split(r"[\"|,;:\[\]()]", text))


def _grouped(notes: list[Note], size: int = 3) -> Iterator[Note]:
    """Some sentences to a note, so that a model sees more than one at a time."""
    for index in range(0, len(notes), size):
        text, spans = "", list[tuple[int, int, str]]()
        for note in notes[index : index + size]:
            spans.extend((s + len(text), e + len(text), x) for s, e, x in note.spans)
            text += note.text + " "
        yield Note(text.rstrip(), tuple(spans))


def _plain_words(note: Note) -> Iterator[str]:
    covered = sorted((s, e) for s, e, _ in note.spans)
    position = 0
    for match in re.finditer(r"[^\W\d_]+|[^\s\w]", note.text):
        while position < len(covered) and covered[position][1] <= match.start():
            position += 1
        if position < len(covered) and covered[position][0] < match.end():
            continue
        if len(match.group()) < 25:
            yield fold(match.group())


def _example(
    note: Note, vocabulary: dict[str, int], cache: dict[str, tuple[int, tuple[int, ...]]]
) -> Example:
    text = note.text.translate(_AS_ON_DEVICE)
    words = read_words(text, fold(text))
    rows = np.zeros(len(words.folded), dtype=np.int64)
    gram_rows = np.zeros((len(words.folded), GRAMS), dtype=np.int64)
    for index, word in enumerate(words.folded):
        known = cache.get(word)
        if known is None:
            known = cache[word] = (identity(word, vocabulary), tuple(grams(word)))
        rows[index] = known[0]
        gram_rows[index, : len(known[1])] = known[1]
    labels = np.zeros(len(rows), dtype=np.int64)
    for start, end in note.unsure:
        for index, (s, e) in enumerate(zip(words.starts, words.ends, strict=True)):
            if s < end and e > start:
                labels[index] = _IGNORED
    for start, end, entity in note.spans:
        first = True
        for index, (s, e) in enumerate(zip(words.starts, words.ends, strict=True)):
            if s < end and e > start:
                labels[index] = LABELS.index(("B-" if first else "I-") + entity)
                first = False
    return Example(rows, gram_rows, words.looks, labels)


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Notes of like length together; the order of the batches stays random."""
    window = 512
    for begin in range(0, len(examples), window):
        part = sorted(examples[begin : begin + window], key=lambda e: len(e.words))
        batches: list[list[Example]] = [[]]
        for example in part:
            if batches[-1] and (len(batches[-1]) + 1) * len(example.words) > _BATCH_WORDS:
                batches.append([])
            batches[-1].append(example)
        order = torch.randperm(len(batches)).tolist()
        yield from (batches[index] for index in order if batches[index])


def _padded(
    batch: Sequence[Example],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    length = max(1, *(len(example.words) for example in batch))
    words = torch.zeros(len(batch), length, dtype=torch.int64)
    gram_rows = torch.zeros(len(batch), length, GRAMS, dtype=torch.int64)
    looks = torch.zeros(len(batch), length, dtype=torch.int64)
    labels = torch.full((len(batch), length), _IGNORED, dtype=torch.int64)
    mask = torch.zeros(len(batch), length, 1)
    for index, example in enumerate(batch):
        size = len(example.words)
        words[index, :size] = torch.from_numpy(example.words)
        gram_rows[index, :size] = torch.from_numpy(example.grams)
        looks[index, :size] = torch.from_numpy(example.looks)
        labels[index, :size] = torch.from_numpy(example.labels)
        mask[index, :size] = 1.0
    return words, gram_rows, looks, labels, mask


if __name__ == "__main__":
    main()
