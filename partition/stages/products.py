"""Products of activations and matrices in a graph: in float32, in 8-bit integers, or in blocks of 4 or 8 bits.

Between a product and whoever uses it lies the scale of each position: whoever adds it to the residual stream does both in one
node, and the up projection leaves it out, since the next scale of the row makes up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from partition.stages.graph_writer import CONTRIB, GraphWriter, scalar
from partition.stages.layer_weights import BlockMatrix, FloatMatrix, Floats, Matrix
from partition.stages.rotation import hadamard

_LEVELS = 127


@dataclass(frozen=True, slots=True)
class Operand:
    """Activations as a matrix takes them."""

    values: str  # float32 themselves, or their codes
    scale: str  # of each position, (..., 1); empty for float32


@dataclass(frozen=True, slots=True)
class Product:
    """The result, still to be multiplied by the scale of each position."""

    values: str
    scale: str  # (..., 1); empty: 1


class ProductWriter:
    """Writes products; 8-bit matrices decide by their type how activations are prepared."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._zeros: dict[int, str] = {}  # zero points by the rank of what they belong to

    def operand(self, x: str, matrix: Matrix, *, rank: int, factor: str = "") -> Operand:
        """Prepare activations for one or several matrices of a kind.

        A row's largest magnitude becomes 127, with one scale a row: the massive activations of a first token then spoil no
        other position, and a position's result does not depend on its neighbours.

        Args:
            x: ``(..., inputs)``.
            matrix: One of the matrices.
            rank: Number of dimensions of ``x``; all of one rank in a graph have the same positions.
            factor: What each position of ``x`` is still to be multiplied by, ``(..., 1)``; empty: nothing.
        """
        if isinstance(matrix, FloatMatrix):
            return Operand(x, "")
        node, constant = self._writer.node, self._writer.constant
        if matrix.rotation > 1:
            x = self._rotated(x, matrix.rotation, rank)
        last = constant("last_axis", np.array([-1], np.int64))
        largest = node("ReduceMax", [node("Abs", [x]), last], keepdims=1)
        scale = node("Mul", [largest, constant("level", scalar(1 / _LEVELS))])
        zeros = self._zeros.get(rank) or self._zero_points(rank, scale)
        # A row of zeros has scale 0 and codes without meaning, which the same 0 multiplies away again.
        codes = node("QuantizeLinear", [x, scale, zeros], axis=-1, block_size=len(matrix.codes))
        return Operand(codes, node("Mul", [scale, factor]) if factor else scale)

    def multiply(self, name: str, matrix: Matrix, x: Operand) -> Product:
        """Multiply by a matrix; the scale of the positions is left to whoever uses the product."""
        node, constant = self._writer.node, self._writer.constant
        if isinstance(matrix, FloatMatrix):
            return Product(node("MatMul", [x.values, constant(name, matrix.values)]), "")
        inputs = [
            x.values,
            constant(f"{name}.int8", matrix.codes),
            # The kernel would multiply by a scale for each row in one thread; a node of its own takes all of them.
            constant("one", scalar(1)),
            constant(f"{name}.scales", matrix.scales),
            constant("middle", scalar(128, np.uint8)),
        ]
        return Product(node("MatMulIntegerToFloat", inputs, domain=CONTRIB), x.scale)

    def scaled(self, product: Product, bias_name: str = "", bias: Floats | None = None) -> str:
        """The product itself, and a bias of its columns added."""
        result = product.values
        if product.scale:
            result = self._writer.node("Mul", [result, product.scale])
        if bias is None:
            return result
        return self._writer.node("Add", [result, self._writer.constant(bias_name, bias)])

    def added(self, x: str, product: Product) -> str:
        """``x`` plus the product."""
        if product.scale:
            return self._writer.node("GatedAdd", [x, product.values, product.scale], domain=CONTRIB)
        return self._writer.node("Add", [x, product.values])

    def block_product(self, name: str, matrix: BlockMatrix, x: str, *, output: str) -> None:
        """Multiply rows of ``x`` by a matrix in blocks; the operator gives activations 8 bits with a scale for each block."""
        node, constant = self._writer.node, self._writer.constant
        outputs, blocks, _ = matrix.packed.shape
        product = output if matrix.offsets is None else self._writer.fresh("product")
        node(
            "MatMulNBits",
            [
                x,
                constant(f"{name}.packed", matrix.packed),
                constant(f"{name}.scales", matrix.scales),
            ],
            [product],
            domain=CONTRIB,
            K=blocks * matrix.block,
            N=outputs,
            bits=matrix.bits,
            block_size=matrix.block,
            accuracy_level=4,  # 8-bit activations; float32 would take fifty times as long
        )
        if matrix.offsets is None:
            return
        blocked = constant("blocked", np.array([0, blocks, matrix.block], np.int64))
        last = constant("last_axis", np.array([-1], np.int64))
        sums = node("ReduceSum", [node("Reshape", [x, blocked]), last], keepdims=0)
        shift = node("MatMul", [sums, constant(f"{name}.offsets", matrix.offsets)])
        node("Add", [product, shift], [output])

    def _rotated(self, x: str, size: int, rank: int) -> str:
        writer = self._writer
        blocks = writer.in_blocks(x, size, rank)
        matrix = writer.constant(f"hadamard_{size}", hadamard(size))
        return writer.joined(writer.node("MatMul", [blocks, matrix]), rank)

    def _zero_points(self, rank: int, scale: str) -> str:
        """The zero point of every position, in the shape of their scales."""
        middle = onnx.numpy_helper.from_array(np.array([128], np.uint8), "middle_of_positions")
        shape = self._writer.node("Shape", [scale])
        self._zeros[rank] = self._writer.node("ConstantOfShape", [shape], value=middle)
        return self._zeros[rank]
