"""onnxruntime-genai with the int4 model that its own builder makes of the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from benchmarks._engines.engine import CONTEXT_TOKENS
from benchmarks._engines.genai_model import model_folder


class Genai:
    """See :class:`benchmarks._engines.engine.Engine`."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = og.Config(str(folder))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)

    def version(self) -> str:
        return f"onnxruntime-genai {og.__version__} int4"

    def prefill(self, ids: Sequence[int]) -> float:
        start = time.perf_counter()
        self._best(self._prompt(ids))
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], num_tokens: int) -> float:
        generator = self._prompt(ids)
        generator.generate_next_token()  # chosen from what the prompt's run said
        start = time.perf_counter()
        for _ in range(num_tokens):
            generator.generate_next_token()
        return time.perf_counter() - start

    def verdict(
        self, fixed: Sequence[int], rest: Sequence[int], labels: Sequence[Sequence[int]]
    ) -> float:
        generator = self._prompt(fixed)
        self._best(generator)
        start = time.perf_counter()
        generator.append_tokens(list(rest))
        self._best(generator)
        length = generator.token_count()
        for label in labels:
            for at in range(1, len(label)):
                generator.rewind_to(length)
                generator.append_tokens(list(label[:at]))
                self._best(generator)
        return time.perf_counter() - start

    def stepwise(self, ids: Sequence[int]) -> Any:
        """Logits behind every position, ``(len(ids), vocab_size) float32``."""
        generator = self._prompt(ids[:1])
        found = [np.array(generator.get_logits()).reshape(-1)]
        for token in ids[1:]:
            generator.append_tokens([token])
            found.append(np.array(generator.get_logits()).reshape(-1))
        return np.stack(found)

    def _prompt(self, ids: Sequence[int]) -> Any:
        params = og.GeneratorParams(self._model)
        params.set_search_options(
            max_length=CONTEXT_TOKENS, min_length=CONTEXT_TOKENS, do_sample=False
        )
        generator = og.Generator(self._model, params)
        generator.append_tokens(list(ids))
        return generator

    def _best(self, generator: Any) -> int:
        return int(np.asarray(generator.get_logits()).reshape(-1).argmax())


def open_engine(model: Path, threads: int, cache_dir: Path) -> Genai:
    """Load the model; the first time, build it."""
    return Genai(model_folder(model, cache_dir.parent / "benchmarks"), threads)
