"""What onnxruntime-genai says to every position of a text, one token after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._engines.genai_model import model_folder
from benchmarks._engines.genai_peer import Genai


class GenaiLogits:
    """A model that gives the logits of all positions; needs onnxruntime-genai."""

    def __init__(self, model: Path, cache_dir: Path) -> None:
        self._engine = Genai(model_folder(model, cache_dir), threads=2)

    def version(self) -> str:
        return self._engine.version()

    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """``(len(ids), vocab_size)``; its graph gives those of the last position only."""
        return self._engine.stepwise(ids.tolist())
