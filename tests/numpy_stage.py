"""A small recurrent-free model in numpy behind the interface of a stage: any cut, any cache length, microseconds a token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from partition.errors import NeedPrefillError
from partition.stages.stage import Floats, StageOutput

WIDTH = 64
VOCABULARY = 50


class NumpyStage:
    """Layers ``[start, end)``: each mixes a position with the mean of all before it, so caches and rewinds matter.

    Args:
        start: First layer; 0 takes token ids.
        end: Past the last layer.
        num_layers: Of the model; ``end`` there gives logits.
        seed: Of the weights.
        noise: Relative change of the head, to make a drafter that mostly agrees.
        on_run: Gets the number of positions of each call, to pass time.
    """

    def __init__(
        self,
        start: int,
        end: int,
        *,
        num_layers: int = 4,
        seed: int = 0,
        noise: float = 0.0,
        on_run: Callable[[int], None] = lambda count: None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._embedding = rng.normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32)
        layers = [rng.normal(0, WIDTH**-0.5, (2, WIDTH, WIDTH)) for _ in range(num_layers)]
        self._layers = [layer.astype(np.float32) for layer in layers[start:end]]
        head = rng.normal(0, 0.6, (WIDTH, VOCABULARY))
        self._head = (head + noise * rng.normal(0, 0.6, head.shape)).astype(np.float32)
        self._is_first, self._is_last = start == 0, end == num_layers
        self._caches: dict[str, list[Floats]] = {}  # by layer: all inputs so far
        self._on_run = on_run

    def extend(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        self.rewind(session, base_len)
        self._on_run(len(inputs))
        empty = np.empty((0, WIDTH), np.float32)
        caches = self._caches.setdefault(session, [empty] * max(1, len(self._layers)))
        hidden: Floats = (
            self._embedding[np.asarray(inputs)]
            if self._is_first
            else np.asarray(inputs, dtype=np.float32)
        )
        for index, (own, others) in enumerate(self._layers):
            caches[index] = np.concatenate([caches[index], hidden])
            count = np.arange(1, len(caches[index]) + 1, dtype=np.float32)[:, None]
            mean = (np.cumsum(caches[index], axis=0, dtype=np.float64) / count)[base_len:]
            hidden = hidden + np.tanh(hidden @ own + mean.astype(np.float32) @ others)
        if not self._is_last:
            return StageOutput(hidden=hidden)
        wanted = hidden[-1:] if rows is None else hidden[rows]
        return StageOutput(logits=wanted @ self._head)

    def rewind(self, session: str, length: int) -> None:
        if length > self.length(session):
            raise NeedPrefillError("fewer positions are cached; send the prompt again")
        if session in self._caches:
            self._caches[session] = [cache[:length] for cache in self._caches[session]]

    def length(self, session: str) -> int:
        return len(self._caches[session][0]) if session in self._caches else 0

    def forget(self, session: str) -> None:
        self._caches.pop(session, None)

    def close(self) -> None:
        self._caches.clear()
