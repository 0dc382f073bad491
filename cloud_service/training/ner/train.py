"""Train one small NER head and write it as a spaCy pipeline.

    python -m cloud_service.training.ner.train --language pt --lener ../shared/data/ner-pt --output pipelines/pt

Hash embeddings of prefix, suffix, shape and norm: no vectors, no vocabulary, a few megabytes, and names never seen get a
representation too. About ten minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloud_service.training.ner.corpus import Note, lener_notes, lener_words, synthetic_notes
from cloud_service.training.ner.values import english_words, load_names

logger = logging.getLogger(__name__)

_WIDTH = 64
_ROWS = {"NORM": 3000, "PREFIX": 1000, "SUFFIX": 2000, "SHAPE": 1000}
_BATCH_WORDS = 1500
_LEARN_RATE = 0.002


def main() -> None:
    """Read the arguments, train, write."""
    parser = argparse.ArgumentParser(description="Train a NER head of the anonymizer.")
    parser.add_argument("--language", choices=("en", "pt"), required=True)
    parser.add_argument("--lener", type=Path, help="folder of LeNER-Br, for Portuguese")
    parser.add_argument("--notes", type=int, default=12_000, help="synthetic notes a pass")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    nlp = train(options)
    nlp.to_disk(options.output, exclude=["vocab"])  # hash embeddings need no list of strings
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    logger.info("wrote %s bytes", size)


def train(options: argparse.Namespace) -> Any:
    """Train on new synthetic notes in every pass; the rate falls linearly to a tenth."""
    import spacy
    from spacy.training import Example
    from spacy.util import fix_random_seed  # type: ignore[attr-defined]

    fix_random_seed(options.seed)
    rng = random.Random(options.seed)  # noqa: S311 - no secret
    nlp = blank(options.language)
    ner = nlp.get_pipe("ner")
    for entity in ("PERSON", "LOCATION", "ORGANIZATION", "DATE", "ID", "PHONE", "AGE"):
        ner.add_label(entity)
    words = lener_words(options.lener / "train.conll") if options.lener else english_words()
    names = load_names(options.language, words)

    def examples(notes: list[Note]) -> list[Any]:
        made = []
        for note in notes:
            doc = nlp.make_doc(note.text)
            spans = [
                doc.char_span(s, e, label=x, alignment_mode="expand") for s, e, x in note.spans
            ]
            kept = spacy.util.filter_spans([span for span in spans if span is not None])
            reference = doc.copy()
            reference.ents = kept
            made.append(Example(doc, reference))
        return made

    fixed = list(lener_notes(options.lener / "train.conll")) if options.lener else []
    optimizer = nlp.initialize(
        lambda: examples(list(synthetic_notes(50, language=options.language, names=names, seed=1)))
    )
    done, total = 0, options.passes * options.notes
    for number in range(options.passes):
        notes = list(
            synthetic_notes(
                options.notes, language=options.language, names=names, seed=options.seed + number
            )
        )
        notes += fixed
        rng.shuffle(notes)
        losses: dict[str, float] = {}
        for batch in _batches(examples(notes)):
            optimizer.learn_rate = _LEARN_RATE * max(0.1, 1 - done / total)
            nlp.update(batch, sgd=optimizer, drop=0.15, losses=losses)
            done += len(batch)
        logger.info("pass %s: loss %.0f", number + 1, losses["ner"])
    return nlp


def _batches(examples: list[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    words = 0
    for example in examples:
        batch.append(example)
        words += len(example)
        if words >= _BATCH_WORDS:
            yield batch
            batch, words = [], 0
    if batch:
        yield batch


def blank(language: str) -> Any:
    """The untrained pipeline."""
    import spacy

    nlp = spacy.blank(language)
    tok2vec = {
        "@architectures": "spacy.Tok2Vec.v2",
        "embed": {
            "@architectures": "spacy.MultiHashEmbed.v2",
            "width": _WIDTH,
            "attrs": list(_ROWS),
            "rows": list(_ROWS.values()),
            "include_static_vectors": False,
        },
        "encode": {
            "@architectures": "spacy.MaxoutWindowEncoder.v2",
            "width": _WIDTH,
            "depth": 4,
            "window_size": 1,
            "maxout_pieces": 3,
        },
    }
    nlp.add_pipe(
        "ner",
        config={
            "model": {
                "@architectures": "spacy.TransitionBasedParser.v2",
                "state_type": "ner",
                "extra_state_tokens": False,
                "hidden_width": 64,
                "maxout_pieces": 2,
                "use_upper": True,
                "tok2vec": tok2vec,
            }
        },
    )
    return nlp


if __name__ == "__main__":
    main()
