"""What hidden states give away: two simple attackers who hold the model's embedding, by depth and codec.

``nearest`` takes the embedding row nearest to a hidden state by angle. ``linear`` first turns it with a ridge regression from
hidden states to embeddings, trained on other texts of the same kind. Both are weak: published attacks recover whole prompts
(2510.15511, 2507.16372). So a figure is a lower bound of what leaks, and a low one is no evidence of safety.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks._stage_chain import Floats, StageChain, texts
from benchmarks.line import Line, Options
from partition.extend.activations import Codec, decode, encode

MODEL = "smollm2-135m-instruct"
RIDGE = 1e-2  # of the mean variance of a channel
_CODECS = (Codec.FLOAT32, Codec.INT8, Codec.INT4)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    with StageChain(MODEL, (1, 5, 10, 15, 20, 25, 29)) as chain:
        folder = options.data / "cxr"
        known = texts(folder / "train.jsonl", 1500 if options.quick else 12_000, chain.tokenizer)
        victims = texts(folder / "dev.jsonl", 300 if options.quick else 2000, chain.tokenizer)
        rows = chain.embeddings()
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
        seen, secret = _hidden(chain, known), _hidden(chain, victims)
        known_ids, secret_ids = np.concatenate(known), np.concatenate(victims)
        for depth, cut in enumerate(chain.cuts):
            weights = _ridge(seen[depth], unit[known_ids])
            for codec in _CODECS:
                sent = secret[depth]
                received = decode(encode(sent, codec), width=sent.shape[1], max_rows=len(sent))
                for attack, guess in (
                    ("nearest", received),
                    ("linear", _turned(received, weights)),
                ):
                    share = float((_nearest(guess, unit) == secret_ids).mean())
                    yield Line(
                        case=f"recovered {attack} split {cut} {codec.name.lower()} {MODEL}",
                        ours=share,
                        unit="share of tokens",
                        runs=len(secret_ids),
                    )


def _hidden(chain: StageChain, sequences: Sequence[tuple[int, ...]]) -> list[Floats]:
    """Hidden states of all texts, one array a cut."""
    by_text = [list(chain.hidden(ids)) for ids in sequences]
    return [np.concatenate(at_cut) for at_cut in zip(*by_text, strict=True)]


def _ridge(hidden: Floats, wanted: Floats) -> Floats:
    """Weights ``(width + 1, width)`` from standardised hidden states to embeddings; kept in float64 until solved."""
    inputs = _with_constant(hidden)
    gram = inputs.T @ inputs
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved: Floats = np.linalg.solve(gram, inputs.T @ wanted.astype(np.float64)).astype(np.float32)
    return solved


def _turned(hidden: Floats, weights: Floats) -> Floats:
    turned: Floats = (_with_constant(hidden) @ weights).astype(np.float32)
    return turned


def _with_constant(hidden: Floats) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rows of unit length, so that a massive first token does not decide the fit, and a constant beside them."""
    rows = hidden.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
    return np.concatenate([rows, np.full((len(rows), 1), 0.1)], axis=1)


def _nearest(guess: Floats, unit: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Vocabulary entry with the smallest angle to each row."""
    found = [
        (piece @ unit.T).argmax(axis=1)
        for piece in np.array_split(guess, max(1, len(guess) // 256))
    ]
    return np.concatenate(found)
