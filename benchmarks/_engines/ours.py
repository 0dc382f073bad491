"""Our own engine: the stage and the generator that the device runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks._engines.engine import CONTEXT_TOKENS
from partition.generation.generation import Generator
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.text.tokenizer import Tokenizer
from partition.weights.weight_source import open_weights


class Ours:
    """See :class:`benchmarks._engines.engine.Engine`."""

    def __init__(self, model: Path, threads: int, cache_dir: Path) -> None:
        self._stage = OnnxStage.open(
            open_weights(model),
            precision=Precision.INT8,
            threads=threads,
            context_tokens=CONTEXT_TOKENS,
            cache_dir=cache_dir,
        )
        self._generator = Generator(
            self._stage,
            Tokenizer.open(model),
            context_tokens=self._stage.context_tokens,
            num_sessions=1,
        )

    def version(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    def prefill(self, ids: Sequence[int]) -> float:
        start = time.perf_counter()
        self._generator.prefill(ids)
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], num_tokens: int) -> float:
        prefill = self._generator.prefill(ids)
        logits, length = prefill.logits, prefill.num_tokens
        start = time.perf_counter()
        for _ in range(num_tokens):
            token = np.array([int(logits.argmax())], np.int32)
            output = self._stage.extend(prefill.session, token, base_len=length)
            assert output.logits is not None
            logits = output.logits[0]
            length += 1
        return time.perf_counter() - start

    def decode_together(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> float:
        """As :meth:`decode`, but of several prompts, a token of each in one run."""
        sessions = [f"together-{at}" for at in range(len(prompts))]
        lengths = [len(ids) for ids in prompts]
        logits = []
        for session, ids in zip(sessions, prompts, strict=True):
            output = self._stage.extend(session, np.array(ids, np.int32), base_len=0)
            assert output.logits is not None
            logits.append(output.logits[0])
        start = time.perf_counter()
        for _ in range(num_tokens):
            tokens = np.array([int(row.argmax()) for row in logits], np.int32)
            together = self._stage.extend_each(sessions, tokens, base_lens=lengths).logits
            assert together is not None
            logits = list(together)
            lengths = [length + 1 for length in lengths]
        elapsed = time.perf_counter() - start
        for session in sessions:
            self._stage.forget(session)
        return elapsed

    def verdict(
        self, fixed: Sequence[int], rest: Sequence[int], labels: Sequence[Sequence[int]]
    ) -> float:
        self._generator.prefill([*fixed, *rest[:1]])
        start = time.perf_counter()
        self._generator.reader.choose([*fixed, *rest], labels)
        return time.perf_counter() - start

    def verdicts(
        self,
        fixed: Sequence[int],
        rests: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        batch: int,
    ) -> float:
        """Choose a label for each of several reports, so many at once."""
        self._generator.prefill([*fixed, *rests[0][:1]])
        prompts = [[*fixed, *rest] for rest in rests]
        start = time.perf_counter()
        for at in range(0, len(prompts), batch):
            some = prompts[at : at + batch]
            self._generator.reader.choose_many(some, [labels] * len(some))
        return time.perf_counter() - start


def open_engine(model: Path, threads: int, cache_dir: Path) -> Ours:
    """Load the model."""
    return Ours(model, threads, cache_dir)
