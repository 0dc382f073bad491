"""One model as a chain of stages: the hidden states at every cut of it, and the tail behind each, from one set of weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import platformdirs
from numpy.typing import NDArray

from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision, StageRange
from partition.store.model_store import ModelStore
from partition.text.tokenizer import Tokenizer
from partition.weights.weight_source import open_weights

Floats = NDArray[np.float32]
_CONTEXT_TOKENS = 1024


class StageChain:
    """Consecutive stages, one a piece between two cuts; a context manager.

    Args:
        model: A name of the model store, or a path.
        cuts: Layers before each cut, ascending; the ends are added.
    """

    def __init__(
        self,
        model: str,
        cuts: Sequence[int],
        *,
        precision: Precision = Precision.FLOAT32,
        threads: int = 2,
    ) -> None:
        path = Path(model) if Path(model).exists() else ModelStore().get(model)
        self._source = open_weights(path)
        self.tokenizer = Tokenizer.open(path)
        self.spec = self._source.spec
        bounds = [0, *cuts, self.spec.num_layers]
        self.cuts = tuple(cuts)
        self._stages = [
            OnnxStage.open(
                self._source,
                StageRange(start=start, end=end, num_layers=self.spec.num_layers),
                precision=precision,
                threads=threads,
                context_tokens=_CONTEXT_TOKENS,
                cache_dir=platformdirs.user_cache_path("tandem") / "stages",
            )
            for start, end in itertools.pairwise(bounds)
        ]

    def hidden(self, ids: Sequence[int]) -> Iterator[Floats]:
        """Hidden states ``(positions, width)`` at every cut, in turn."""
        rows: NDArray[np.int32] | Floats = np.asarray(ids, np.int32)
        for stage in self._stages[:-1]:
            output = stage.extend("a", rows, base_len=0).hidden
            assert output is not None
            rows = output
            yield output

    def logits(self, cut: int, hidden: Floats) -> Floats:
        """Logits ``(positions, vocabulary)`` of what comes behind a cut."""
        rows = hidden
        for stage in self._stages[self.cuts.index(cut) + 1 : -1]:
            output = stage.extend("b", rows, base_len=0).hidden
            assert output is not None
            rows = output
        every = np.arange(len(rows), dtype=np.int64)
        logits = self._stages[-1].extend("b", rows, base_len=0, rows=every).logits
        assert logits is not None
        return logits

    def embeddings(self) -> Floats:
        """The rows of the embedding ``(vocabulary, width)``."""
        return self._source.float32("model.embed_tokens.weight")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stage in self._stages:
            stage.close()


def texts(path: Path, most_tokens: int, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Token ids of the first texts of a data set, ``most_tokens`` of them together."""
    from benchmarks._model_outputs import read_examples

    found: list[tuple[int, ...]] = []
    total = 0
    for example in read_examples(path):
        ids = tokenizer.encode(example.text)[:512]
        if total >= most_tokens or len(ids) < 8:
            continue
        found.append(ids)
        total += len(ids)
    return found
