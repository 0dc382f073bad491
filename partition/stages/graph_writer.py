"""Nodes and constants of a graph that is being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from partition.stages.tensor_file import TensorFileWriter

OPSET = 21
CONTRIB = "com.microsoft"
_INLINE_BYTES = 1024  # smaller constants stay inside the graph's file


class GraphWriter:
    """Collects what a graph is made of."""

    def __init__(self, weights: TensorFileWriter | None) -> None:
        """Begin an empty graph.

        Args:
            weights: Takes the large constants; None: they stay inside the graph.
        """
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def knows(self, constant: str) -> bool:
        """Whether there is a constant of this name."""
        return constant in self._known

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant once; returns its name."""
        if name not in self._known:
            self._known.add(name)
            if self._weights is None or value.nbytes < _INLINE_BYTES:
                self._initializers.append(onnx.numpy_helper.from_array(value, name))
            else:
                self._initializers.append(self._weights.add(name, value))
        return name

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        return f"{hint}_{len(self._nodes)}"

    def node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Add a node; returns the name of its first output."""
        named = list(outputs) or [self.fresh(kind)]
        self._nodes.append(helper.make_node(kind, list(inputs), named, **attributes))
        return named[0]

    def in_blocks(self, x: str, size: int, rank: int) -> str:
        """Divide the last of ``rank`` axes into blocks: ``(..., width)`` becomes ``(..., width // size, size)``."""
        return self._reshaped(x, f"blocks_{size}_{rank}", [0] * (rank - 1) + [-1, size])

    def joined(self, blocks: str, rank: int) -> str:
        """Undo :meth:`in_blocks`."""
        return self._reshaped(blocks, f"joined_{rank}", [0] * (rank - 1) + [-1])

    def nodes_of(
        self, kind: str, inputs: Sequence[str], hints: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add a node of several outputs; returns their names."""
        named = [self.fresh(hint) for hint in hints]
        self.node(kind, inputs, named, **attributes)
        return named

    def _reshaped(self, x: str, name: str, shape: list[int]) -> str:
        """Reshape; a 0 leaves an axis as it is."""
        return self.node("Reshape", [x, self.constant(name, np.array(shape, np.int64))])

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """All of it as a model."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def value(name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def scalar(number: float, dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
    """A constant without dimensions."""
    return np.array(number, dtype)
