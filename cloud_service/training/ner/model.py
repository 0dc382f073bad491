"""The tagger as a torch module: summed embeddings of each word, dilated convolutions over words, one label a word.

The device runs the same arithmetic in numpy (``edge_agent.anonymize.tagger``); the export is a plain archive of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from partition.text.word_features import GRAM_ROWS, LOOKS

LABELS = (
    "O", "B-PERSON", "I-PERSON", "B-LOCATION", "I-LOCATION", "B-ORGANIZATION", "I-ORGANIZATION",
    "B-DATE", "I-DATE", "B-ID", "I-ID", "B-PHONE", "I-PHONE", "B-AGE", "I-AGE",
)  # fmt: skip
WIDTH = 96
DILATIONS = (1, 2, 4, 8, 1)


class Tagger(nn.Module):
    """Words ``(batch, length)`` to label scores ``(batch, length, len(LABELS))``."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, WIDTH)
        self.grams = nn.EmbeddingBag(GRAM_ROWS, WIDTH, mode="sum", padding_idx=0)
        self.looks = nn.Embedding(LOOKS, WIDTH)
        for table in (self.words, self.grams, self.looks):
            nn.init.normal_(table.weight, std=0.3)
        with torch.no_grad():
            self.grams.weight[0] = 0.0
        self.first = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(nn.Linear(3 * WIDTH, WIDTH) for _ in DILATIONS)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in DILATIONS)
        self.drop = nn.Dropout(0.15)
        self.out = nn.Linear(WIDTH, len(LABELS))

    def forward(self, words: Tensor, grams: Tensor, looks: Tensor, mask: Tensor) -> Tensor:
        """Label scores.

        Args:
            words: Rows of the vocabulary ``(batch, length) int64``.
            grams: Rows of the trigrams ``(batch, length, GRAMS) int64``, 0 is none.
            looks: ``(batch, length) int64``.
            mask: 1 where there is a word ``(batch, length, 1) float32``; beyond a text's end everything is zero.
        """
        letters = self.grams(grams.flatten(0, 1)).view(*words.shape, WIDTH)
        x = self.words(words) + letters + self.looks(looks)
        x = self.drop(self.first(x)) * mask
        for dilation, layer, norm in zip(DILATIONS, self.layers, self.norms, strict=True):
            padded = nn.functional.pad(x, (0, 0, dilation, dilation))
            length = x.shape[1]
            window = torch.cat(
                [padded[:, :length], x, padded[:, 2 * dilation : 2 * dilation + length]], dim=2
            )
            x = norm(x + self.drop(torch.relu(layer(window)))) * mask
        return self.out(x)  # type: ignore[no-any-return]


def export(model: Tagger, vocabulary: Mapping[str, int], path: Path, *, recipe: str = "") -> None:
    """Write the arrays: tables in int8 with one scale a row, the rest in float16, the vocabulary as text.

    Args:
        model: Trained.
        vocabulary: Words and their rows.
        path: Of the archive; the same arrays give the same bytes.
        recipe: What it was made of and how, kept in the archive.
    """
    arrays: dict[str, Any] = {}
    for name in ("words", "grams", "looks"):
        table = getattr(model, name).weight.detach().numpy()
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-6) / 127
        arrays[name] = np.round(table / scale).astype(np.int8)
        arrays[f"{name}_scale"] = scale.astype(np.float16)

    def put(name: str, tensor: Tensor) -> None:
        arrays[name] = tensor.detach().numpy().astype(np.float16)

    put("first_gain", model.first.weight)
    put("first_shift", model.first.bias)
    for index, (layer, norm) in enumerate(zip(model.layers, model.norms, strict=True)):
        put(f"layer_{index}", layer.weight.T)  # type: ignore[arg-type]
        put(f"layer_{index}_shift", layer.bias)  # type: ignore[arg-type]
        put(f"norm_{index}_gain", norm.weight)  # type: ignore[arg-type]
        put(f"norm_{index}_shift", norm.bias)  # type: ignore[arg-type]
    put("out", model.out.weight.T)
    put("out_shift", model.out.bias)
    arrays["dilations"] = np.array(DILATIONS, dtype=np.int64)
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    arrays["vocabulary"] = np.frombuffer("\t".join(ordered).encode(), dtype=np.uint8)
    arrays["labels"] = np.frombuffer("\t".join(LABELS).encode(), dtype=np.uint8)
    arrays["recipe"] = np.frombuffer(recipe.encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # NumPy writes no time of day into it
