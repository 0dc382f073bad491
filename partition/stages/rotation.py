"""Spreads outliers of activations over their neighbours before both they and the weights become 8-bit integers.

A row of activations is multiplied by an orthogonal matrix and the weights by its inverse, which changes nothing in exact
arithmetic (QuaRot, 2404.00456): a channel that was 64 times as large as the others becomes 64 channels that are 8 times as large, and a step
that is a 127th of the largest fits all of them better. The matrix is Hadamard's, in blocks: of plus and minus one over the root of its
size, symmetric and its own inverse, and cheap to multiply by, since a block sees its own channels only.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from partition.stages.layer_weights import Floats

# Twice as many channels take 1.6 times as long; of 135M, blocks of 32 instead of 64 cost a quarter more KL.
_LARGEST_BLOCK: Final = 64


def block_size(width: int, largest: int = _LARGEST_BLOCK) -> int:
    """Channels of a row so wide that are rotated together: the largest power of two that divides it, at most ``largest``; 1: none."""
    return min(width & -width, largest)


def hadamard(size: int) -> Floats:
    """Hadamard's matrix (Sylvester's construction), ``(size, size)``, orthonormal; ``size`` is a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    result: Floats = matrix / np.sqrt(np.float32(size))
    return result


def rotated(values: Floats, size: int) -> Floats:
    """Rotate blocks of ``size`` channels, which are the last axis; a second call turns them back."""
    if size == 1:
        return values
    blocks = values.reshape(*values.shape[:-1], -1, size) @ hadamard(size)
    found: Floats = blocks.reshape(values.shape)
    return found


def rotated_rows(matrix: Floats, size: int) -> Floats:
    """A matrix ``(channels, outputs)`` for channels that come rotated."""
    return np.ascontiguousarray(rotated(np.ascontiguousarray(matrix.T), size).T)
