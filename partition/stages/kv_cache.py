"""Keys and values of one session, in buffers that the graph writes in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from partition.stages.stage_range import StageRange
from partition.weights.spec import ModelSpec

Floats = npt.NDArray[np.float32]

_STEP_TOKENS: Final = 64  # positions by which buffers grow
_ANSWER_TOKENS: Final = 64


class KVCache:
    """Buffers of ``(1, kv_heads, capacity, head_dim)`` for each layer of a stage; one owner, not thread-safe."""

    def __init__(self, spec: ModelSpec, stage: StageRange, *, max_tokens: int) -> None:
        self._spec = spec
        self._stage = stage
        self._max_tokens = max_tokens
        self.length = 0
        self.capacity = 0
        self.arrays: dict[str, Floats] = {}  # by the name of the graph's input
        self.binding: Any = None  # of inputs and outputs; the caches stay bound until they grow

    def reserve(self, num_tokens: int, session: Any, outputs: Sequence[str]) -> None:
        """Make room for so many positions, keeping what is there, and bind the caches.

        Args:
            num_tokens: Positions there must be room for.
            session: The ONNX Runtime session that reads and writes them.
            outputs: Its other outputs, to be bound before each run; ``get_outputs`` has them first and in this order.
        """
        if num_tokens <= self.capacity:
            if self.binding is None:
                self.binding = bound(session, outputs, self.arrays)
            return
        self._make_room(num_tokens)
        self.binding = bound(session, outputs, self.arrays)

    def fill(self, part: Callable[[str], Floats], length: int) -> None:
        """Hold copies of another cache's first positions, and nothing else; they are bound when they are first used.

        Args:
            part: By name of the graph's input, ``(kv_heads, capacity, head_dim)`` of the other cache.
            length: How many positions.
        """
        self.length = 0
        self._make_room(length)
        for name, array in self.arrays.items():
            array[0, :, :length] = part(name)[:, :length]
        self.length = length

    def part(self, name: str) -> Floats:
        """One buffer, ``(kv_heads, capacity, head_dim)``; writing to it changes the cache."""
        part: Floats = self.arrays[name][0]
        return part

    def _make_room(self, num_tokens: int) -> None:
        # Room for an answer too: growing behind the prompt would cost the first token of the answer two dozen milliseconds.
        capacity = -(-(num_tokens + _ANSWER_TOKENS) // _STEP_TOKENS) * _STEP_TOKENS
        capacity = max(num_tokens, min(capacity, self._max_tokens))
        shape = (1, self._spec.num_kv_heads, capacity, self._spec.head_dim)
        self.binding = None  # holds on to the buffers
        for name in cache_names(self._stage):
            array = np.zeros(shape, np.float32)
            if self.length:
                array[:, :, : self.length] = self.arrays[name][:, :, : self.length]
            self.arrays[name] = array
        self.capacity = capacity


def cache_names(stage: StageRange) -> list[str]:
    """Names of the caches among the inputs of a stage's graph."""
    layers = range(stage.start, stage.end)
    return [f"{kind}.{layer}" for layer in layers for kind in ("key", "value")]


def bound(session: Any, outputs: Sequence[str], arrays: Mapping[str, Floats]) -> Any:
    """Bind caches to the inputs that read them and the outputs that write them; they are not copied.

    Binding a hundred buffers takes a millisecond, so it is not done for every token.
    """
    import onnxruntime

    binding = session.io_binding()
    for name in outputs:
        binding.bind_output(name)
    for name, array in arrays.items():
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, buffer)
        binding.bind_ortvalue_output(f"present_{name}", buffer)
    return binding
