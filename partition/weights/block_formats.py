"""The block formats of GGUF tensors, read as ``value = scale * code + offset``.

Every format of llama.cpp that we read is a matrix of small integers with one scale, and for some one offset, for each
group of neighbours in a row (``ggml-quants.c`` of llama.cpp is the definition of the bits). Read that way a tensor can be
turned into float32, and just as well repacked without loss for a kernel that wants the integers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_CHUNK_VALUES: Final = (
    1 << 24
)  # values turned into float32 at once, so that the extra memory stays small


class TensorType(enum.IntEnum):
    """Numbers of ``ggml_type``; only those we read."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30

    @property
    def block_values(self) -> int:
        """Values in one block."""
        return _LAYOUTS[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return _LAYOUTS[self][1]

    @property
    def is_quantized(self) -> bool:
        """Whether the values are integers with scales, not floats."""
        return self not in (TensorType.F32, TensorType.F16, TensorType.BF16)


_LAYOUTS: Final[dict[TensorType, tuple[int, int]]] = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.BF16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20),
    TensorType.Q5_0: (32, 22),
    TensorType.Q5_1: (32, 24),
    TensorType.Q8_0: (32, 34),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
}


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRows:
    """A matrix as integers: ``value[r, c] = scales[r, c // group] * codes[r, c] + offsets[r, c // group]``."""

    codes: npt.NDArray[np.int8]  # (rows, columns); unsigned 4 and 5 bit codes fit as well
    scales: Floats  # (rows, columns // group)
    offsets: Floats | None  # same shape; None: all zero
    group: int
    bits: int  # codes lie in a range of 2**bits integers, which begins at ``lowest``
    lowest: int

    def take(self, rows: npt.NDArray[np.integer]) -> QuantizedRows:
        """Some of the rows, in the order given."""
        offsets = None if self.offsets is None else self.offsets[rows]
        return replace(self, codes=self.codes[rows], scales=self.scales[rows], offsets=offsets)

    def to_float32(self) -> Floats:
        """Multiply out, ``(rows, columns) float32``."""
        rows, columns = self.codes.shape
        grouped = self.codes.reshape(rows, columns // self.group, self.group)
        values = grouped.astype(np.float32)
        values *= self.scales[:, :, None]
        if self.offsets is not None:
            values += self.offsets[:, :, None]
        return values.reshape(rows, columns)


def unpack_rows(data: Bytes, tensor_type: TensorType, *, rows: int, columns: int) -> QuantizedRows:
    """Read the blocks of a quantised matrix.

    Args:
        data: Exactly the bytes of ``rows * columns`` values.
        tensor_type: One with ``is_quantized``.
        rows: Rows of the matrix.
        columns: Values in a row, a multiple of the format's block.
    """
    blocks = data.reshape(-1, tensor_type.block_bytes)
    return _UNPACK[tensor_type](blocks, rows, columns)


def to_float32(data: Bytes, tensor_type: TensorType, *, rows: int, columns: int) -> Floats:
    """Read any tensor as ``(rows, columns) float32``; large ones piece by piece.

    Raises:
        ModelFileError: ``data`` does not have the bytes of so many values.
    """
    row_bytes = columns // tensor_type.block_values * tensor_type.block_bytes
    if columns % tensor_type.block_values or data.size != rows * row_bytes:
        raise ModelFileError(
            f"a {tensor_type.name} tensor of {rows} x {columns} values does not have {data.size} bytes; fetch the file again"
        )
    if tensor_type is TensorType.F32:
        return data.view("<f4").reshape(rows, columns).astype(np.float32)
    if tensor_type is TensorType.F16:
        return data.view("<f2").reshape(rows, columns).astype(np.float32)
    if tensor_type is TensorType.BF16:
        wide = data.view("<u2").astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(rows, columns)
    values = np.empty((rows, columns), np.float32)
    step = max(1, _CHUNK_VALUES // max(columns, 1))
    for start in range(0, rows, step):
        end = min(start + step, rows)
        part = data[start * row_bytes : end * row_bytes]
        values[start:end] = unpack_rows(
            part, tensor_type, rows=end - start, columns=columns
        ).to_float32()
    return values


def _half(blocks: Bytes, at: int) -> Floats:
    """Read one float16 of each block, at a byte offset."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)[:, 0]


def _nibbles(packed: Bytes) -> npt.NDArray[np.int8]:
    """Split ``(n, b)`` bytes into ``(n, 2b)`` codes: all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=1).view(np.int8)


def _fifth_bits(blocks: Bytes, at: int) -> npt.NDArray[np.int8]:
    """Bit j of a 32-bit word is the fifth bit of value j; already shifted to 16."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little")
    return (bits << 4).view(np.int8)


def _unpack_q4_0(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    codes = _nibbles(blocks[:, 2:]) - np.int8(8)
    scales = _half(blocks, 0).reshape(rows, -1)
    return QuantizedRows(codes.reshape(rows, columns), scales, None, 32, 4, -8)


def _unpack_q4_1(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    scales, offsets = (_half(blocks, at).reshape(rows, -1) for at in (0, 2))
    return QuantizedRows(_nibbles(blocks[:, 4:]).reshape(rows, columns), scales, offsets, 32, 4, 0)


def _unpack_q5_0(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    codes = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)) - np.int8(16)
    scales = _half(blocks, 0).reshape(rows, -1)
    return QuantizedRows(codes.reshape(rows, columns), scales, None, 32, 5, -16)


def _unpack_q5_1(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    scales, offsets = (_half(blocks, at).reshape(rows, -1) for at in (0, 2))
    return QuantizedRows(codes.reshape(rows, columns), scales, offsets, 32, 5, 0)


def _unpack_q8_0(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    codes = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).reshape(rows, columns)
    return QuantizedRows(codes, _half(blocks, 0).reshape(rows, -1), None, 32, 8, -128)


def _scales_and_minima(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Unpack the eight 6-bit scales and minima of a K block from its 12 bytes; each ``(n, 8)``."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((low & 63, (high & 15) | ((low >> 6) << 4)), axis=1)
    minima = np.concatenate((middle & 63, (high >> 4) | ((middle >> 6) << 4)), axis=1)
    return scales, minima


def _k_rows(
    codes: npt.NDArray[np.int8], blocks: Bytes, rows: int, columns: int, bits: int
) -> QuantizedRows:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scale = _half(blocks, 0)[:, None] * scales
    offset = -(_half(blocks, 2)[:, None] * minima)
    return QuantizedRows(
        codes.reshape(rows, columns), scale.reshape(rows, -1), offset.reshape(rows, -1), 32, bits, 0
    )


def _unpack_q4_k(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    codes = _nibbles(blocks[:, 16:].reshape(-1, 32))  # each 32 bytes: 32 low halves, 32 high ones
    return _k_rows(codes, blocks, rows, columns, 4)


def _unpack_q5_k(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    low = _nibbles(blocks[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    # Bit s of byte j is the fifth bit of value j of sub-block s.
    planes = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1)
    return _k_rows(low | (planes << 4).view(np.int8), blocks, rows, columns, 5)


def _unpack_q6_k(blocks: Bytes, rows: int, columns: int) -> QuantizedRows:
    num_blocks = len(blocks)
    low = blocks[:, :128].reshape(num_blocks, 2, 64)
    low = np.concatenate((low & 15, low >> 4), axis=2)  # (n, 2, 128)
    high = blocks[:, 128:192].reshape(num_blocks, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    top = (((high >> shifts) & 3) << 4).reshape(num_blocks, 2, 128)
    codes = (low | top).view(np.int8) - np.int8(32)
    sub_scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    scales = (_half(blocks, 208)[:, None] * sub_scales).reshape(rows, -1)
    return QuantizedRows(codes.reshape(rows, columns), scales, None, 16, 6, -32)


_UNPACK: Final[dict[TensorType, Callable[[Bytes, int, int], QuantizedRows]]] = {
    TensorType.Q4_0: _unpack_q4_0,
    TensorType.Q4_1: _unpack_q4_1,
    TensorType.Q5_0: _unpack_q5_0,
    TensorType.Q5_1: _unpack_q5_1,
    TensorType.Q8_0: _unpack_q8_0,
    TensorType.Q4_K: _unpack_q4_k,
    TensorType.Q5_K: _unpack_q5_k,
    TensorType.Q6_K: _unpack_q6_k,
}
