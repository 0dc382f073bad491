"""What llama.cpp says to every position of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_CONTEXT_TOKENS = 1024  # it keeps the logits of so many positions


class LlamaCppLogits:
    """A model that gives the logits of all positions; needs llama-cpp-python."""

    def __init__(self, model: Path) -> None:
        import llama_cpp

        self._version = f"llama-cpp-python {llama_cpp.__version__}"
        self._llama: Any = llama_cpp.Llama(
            str(model),
            n_ctx=_CONTEXT_TOKENS,
            n_threads=2,
            n_threads_batch=2,
            logits_all=True,
            verbose=False,
        )

    def version(self) -> str:
        return self._version

    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """``(len(ids), vocab_size)``."""
        self._llama.reset()
        self._llama.eval(ids.tolist())
        found: npt.NDArray[np.float32] = self._llama.scores[: len(ids)].copy()
        return found
