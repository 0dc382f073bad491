"""Keys and values of one session, in buffers that the graph writes in place."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from partition.spec import ModelSpec
from partition.stages.stage_range import StageRange

_FIRST_CAPACITY: Final = 256  # positions


class KVCache:
    """Buffers of ``(1, kv_heads, capacity, head_dim)`` for each layer of a stage; one owner, not thread-safe."""

    def __init__(self, spec: ModelSpec, stage: StageRange, *, max_tokens: int) -> None:
        self._spec = spec
        self._layers = range(stage.start, stage.end)
        self._max_tokens = max_tokens
        self.length = 0
        self.capacity = 0
        self.buffers: dict[str, Any] = {}  # OrtValue by the name of the graph's input

    def reserve(self, num_tokens: int) -> bool:
        """Make room for so many positions, keeping what is there; whether the buffers are new."""
        if num_tokens <= self.capacity:
            return False
        import onnxruntime

        capacity = max(_FIRST_CAPACITY, self.capacity)
        while capacity < num_tokens:
            capacity *= 2
        capacity = max(num_tokens, min(capacity, self._max_tokens))
        shape = (1, self._spec.num_kv_heads, capacity, self._spec.head_dim)
        for layer in self._layers:
            for kind in ("key", "value"):
                name = f"{kind}.{layer}"
                array = np.zeros(shape, np.float32)
                if self.length:
                    array[:, :, : self.length] = self.buffers[name].numpy()[:, :, : self.length]
                self.buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self.capacity = capacity
        return True
