"""Where a prompt has led: what an answer goes on from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prefill:
    """Where a prompt has led."""

    session: str
    num_tokens: int
    num_cached_tokens: (
        int  # of them, taken from an earlier prompt, or run for another one of the same batch
    )
    logits: Floats  # (vocab_size,), for the first token of the answer
    features: Floats  # (hidden_size,), the residual stream of the last position
