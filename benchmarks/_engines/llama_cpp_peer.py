"""llama.cpp through llama-cpp-python, on the same GGUF file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks._engines.engine import CONTEXT_TOKENS


class LlamaCpp:
    """See :class:`benchmarks._engines.engine.Engine`."""

    def __init__(self, model: Path, threads: int) -> None:
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=CONTEXT_TOKENS,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def version(self) -> str:
        return f"llama-cpp-python {llama_cpp.__version__}"

    def prefill(self, ids: Sequence[int]) -> float:
        self._llama.reset()
        start = time.perf_counter()
        self._llama.eval(list(ids))
        self._best()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], num_tokens: int) -> float:
        self._llama.reset()
        self._llama.eval(list(ids))
        start = time.perf_counter()
        for _ in range(num_tokens):
            self._llama.eval([self._best()])
        return time.perf_counter() - start

    def verdict(
        self, fixed: Sequence[int], rest: Sequence[int], labels: Sequence[Sequence[int]]
    ) -> float:
        self._llama.reset()
        self._llama.eval(list(fixed))
        start = time.perf_counter()
        self._llama.eval(list(rest))
        self._best()
        length = self._llama.n_tokens
        for label in labels:
            for at in range(1, len(label)):
                self._llama.n_tokens = length
                self._llama.eval(list(label[:at]))
        return time.perf_counter() - start

    def _best(self) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),)).argmax())


def open_engine(model: Path, threads: int, cache_dir: Path) -> LlamaCpp:
    """Load the model."""
    return LlamaCpp(model, threads)
