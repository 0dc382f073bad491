"""The head in blocks, as the weights file has it: repacked without loss for MatMulNBits where the file holds integers.

One scale for a whole row of the head costs more than all other roundings together: of 135M, 4 of 100 likeliest tokens change.
The formats of GGUF have a scale for every 16 or 32 values, and MatMulNBits takes just these.
"""

from __future__ import annotations

import numpy as np

from partition.stages.layer_weights import (
    BlockMatrix,
    Floats,
    HeadWeights,
    final_norm,
    float_head,
    head_name,
)
from partition.weights.block_formats import QuantizedRows
from partition.weights.weight_source import WeightSource

_BLOCK = 32  # values that share a scale where the file has floats


def block_head(source: WeightSource) -> HeadWeights:
    """Repack the head; float32 where its width is no multiple of a block.

    Raises:
        ModelFileError: A weight is missing or of the wrong shape.
    """
    rows = source.quantized(head_name(source))
    if rows is None:
        if source.spec.hidden_size % _BLOCK:
            return float_head(source)
        rows = _rounded(source.float32(head_name(source)))
    return HeadWeights(norm=final_norm(source), matrix=pack_blocks(rows))


def pack_blocks(rows: QuantizedRows) -> BlockMatrix:
    """Pack integers with scales as MatMulNBits takes them; every value stays what it is.

    The operator subtracts the middle of the range from a code. What that leaves over, and the offsets that a format has of its
    own, belong to a block as a whole: they are multiplied by the sum of the block's activations beside it.
    """
    bits = 4 if rows.bits <= 4 else 8
    middle = 1 << (bits - 1)
    lowest = rows.lowest if bits == 4 else -middle
    codes = (rows.codes.astype(np.int16) - lowest).astype(np.uint8)
    num_rows, columns = codes.shape
    blocks = columns // rows.group
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    shift = middle + lowest  # codes are this much too low
    offsets = rows.offsets
    if shift:
        offsets = rows.scales * np.float32(shift) + (0 if offsets is None else offsets)
    return BlockMatrix(
        packed=codes.reshape(num_rows, blocks, -1),
        scales=rows.scales,
        offsets=None if offsets is None else np.ascontiguousarray(offsets.T),
        bits=bits,
        block=rows.group,
    )


def _rounded(values: Floats) -> QuantizedRows:
    """8 bits with a scale for each block: an error of at most 0.4 % of a block's largest value."""
    grouped = values.reshape(len(values), -1, _BLOCK)
    scales = np.maximum(np.abs(grouped).max(axis=2), np.float32(1e-12)) / np.float32(127)
    codes = np.rint(grouped / scales[:, :, None]).astype(np.int8).reshape(values.shape)
    return QuantizedRows(codes, scales, None, _BLOCK, 8, -128)
