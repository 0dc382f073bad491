"""Keys and values of one session, in buffers that the graph writes in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from partition.stages.stage_range import StageRange
from partition.weights.spec import ModelSpec

_STEP_TOKENS: Final = 64  # positions by which buffers grow
_ANSWER_TOKENS: Final = 64


class KVCache:
    """Buffers of ``(1, kv_heads, capacity, head_dim)`` for each layer of a stage; one owner, not thread-safe."""

    def __init__(self, spec: ModelSpec, stage: StageRange, *, max_tokens: int) -> None:
        self._spec = spec
        self._layers = range(stage.start, stage.end)
        self._max_tokens = max_tokens
        self.length = 0
        self.capacity = 0
        self.buffers: dict[str, Any] = {}  # OrtValue by the name of the graph's input
        self.binding: Any = None  # of inputs and outputs; the caches stay bound until they grow

    def reserve(self, num_tokens: int, session: Any, outputs: Sequence[str]) -> None:
        """Make room for so many positions, keeping what is there, and bind the caches.

        Args:
            num_tokens: Positions there must be room for.
            session: The ONNX Runtime session that reads and writes them.
            outputs: Its other outputs, to be bound before each run; ``get_outputs`` has them first and in this order.
        """
        if num_tokens <= self.capacity:
            return
        import onnxruntime

        # Room for an answer too: growing behind the prompt would cost the first token of the answer two dozen milliseconds.
        capacity = -(-(num_tokens + _ANSWER_TOKENS) // _STEP_TOKENS) * _STEP_TOKENS
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
        # Binding a hundred buffers takes a millisecond, so it is not done for every token.
        self.binding = session.io_binding()
        for name in outputs:
            self.binding.bind_output(name)
        for name, buffer in self.buffers.items():
            self.binding.bind_ortvalue_input(name, buffer)
            self.binding.bind_ortvalue_output(f"present_{name}", buffer)
