"""OpenVINO GenAI, reading the same GGUF file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai


class OpenVino:
    """See :class:`benchmarks._engines.engine.Engine`."""

    def __init__(self, model: Path, threads: int) -> None:
        self._pipeline = openvino_genai.LLMPipeline(
            str(model), "CPU", INFERENCE_NUM_THREADS=threads
        )

    def version(self) -> str:
        return f"openvino-genai {openvino_genai.__version__}"

    def prefill(self, ids: Sequence[int]) -> float:
        return self._generate(ids, 1)

    def decode(self, ids: Sequence[int], num_tokens: int) -> float:
        # What its own meter says, between the first token and the last: generating twice would measure two prefills.
        result = self._run(ids, num_tokens + 1)
        metrics = result.perf_metrics
        return float(metrics.get_tpot().mean) * num_tokens / 1000

    def verdict(
        self, fixed: Sequence[int], rest: Sequence[int], labels: Sequence[Sequence[int]]
    ) -> float:
        # It neither scores labels nor keeps a prompt between two calls: it writes as many tokens as the longest label has.
        return self._generate([*fixed, *rest], max(len(label) for label in labels))

    def _generate(self, ids: Sequence[int], num_tokens: int) -> float:
        start = time.perf_counter()
        self._run(ids, num_tokens)
        return time.perf_counter() - start

    def _run(self, ids: Sequence[int], num_tokens: int) -> Any:
        inputs = openvino_genai.TokenizedInputs(
            ov.Tensor(np.array([ids], np.int64)), ov.Tensor(np.ones((1, len(ids)), np.int64))
        )
        config = openvino_genai.GenerationConfig(
            max_new_tokens=num_tokens, min_new_tokens=num_tokens, ignore_eos=True, do_sample=False
        )
        return self._pipeline.generate(inputs, config)


def open_engine(model: Path, threads: int, cache_dir: Path) -> OpenVino:
    """Load the model."""
    return OpenVino(model, threads)
