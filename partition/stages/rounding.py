"""Rounds a matrix to 8-bit integers so that what it makes of real activations changes least (GPTQ, 2210.17323).

Channels are rounded one after the other, and what rounding one changes in the outputs is made up for by the channels that come
after it and usually move with it: ``H = X.T @ X`` says which those are. Of the KL that rounding the weights of a 135M model to the
nearest costs, two thirds go away.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from partition.stages.layer_weights import Floats, Int8Matrix

_LEVELS: Final = 127
_DAMPING: Final = 0.01  # of the mean of H's diagonal; keeps channels that the text did not move from being used as a dump
_STEP: Final = 32  # channels between two updates of all that follow
_MAX_CHANNELS: Final = (
    768  # wider matrices are done in parts: H of all channels would take too long to invert
)
_SMALL: Final = 64  # channels; of a triangle that is inverted as any matrix


def round_matrix(weight: Floats, inverse: list[Floats] | None, *, rotation: int = 1) -> Int8Matrix:
    """Round a matrix.

    Args:
        weight: ``(inputs, outputs)``; overwritten.
        inverse: What :func:`inverse_roots` made of the activations it is multiplied by; None: round to the nearest.
        rotation: How many channels the activations are rotated by, as ``weight`` is already.
    """
    scales = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(_LEVELS)
    weight /= scales
    if inverse is None:
        return Int8Matrix(np.rint(weight).astype(np.int8), scales, rotation)
    codes = np.empty(weight.shape, np.int8)
    start = 0
    for root in inverse:
        end = start + len(root)
        codes[start:end] = _round_part(weight[start:end], root)
        start = end
    return Int8Matrix(codes, scales, rotation)


def inverse_roots(inputs: Floats) -> list[Floats]:
    """Upper triangular ``U`` with ``U.T @ U = inverse(H)``, for each part of the channels.

    Args:
        inputs: ``(positions, channels)``.
    """
    channels = inputs.shape[1]
    parts = -(-channels // _MAX_CHANNELS)
    roots = []
    for part in np.array_split(inputs, parts, axis=1):
        hessian = part.T @ part
        mean = max(float(np.diagonal(hessian).mean()), 1e-12)
        hessian[np.diag_indices_from(hessian)] += np.float32(_DAMPING * mean)
        # Turned round, the lower triangle L of H gives the root of its inverse: H = M M.T with M upper, and U = inverse(M).
        lower = np.linalg.cholesky(hessian[::-1, ::-1])
        roots.append(np.ascontiguousarray(_inverse_of_lower(lower)[::-1, ::-1]))
    return roots


def _inverse_of_lower(lower: Floats) -> Floats:
    """The inverse of a lower triangular matrix, by halves, so that most of it is products of matrices."""
    count = len(lower)
    if count <= _SMALL:
        found: Floats = np.linalg.inv(lower)
        return np.tril(found)
    half = count // 2
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = _inverse_of_lower(lower[:half, :half])
    inverse[half:, half:] = _inverse_of_lower(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (lower[half:, :half] @ inverse[:half, :half])
    return inverse


def _round_part(rest: Floats, root: Floats) -> Floats:
    """Codes of some channels; ``rest`` is in steps of the scale, and is overwritten."""
    codes = np.empty_like(rest)
    count = len(rest)
    for start in range(0, count, _STEP):
        end = min(start + _STEP, count)
        errors = np.empty((end - start, rest.shape[1]), np.float32)
        for at in range(start, end):
            np.rint(rest[at], out=codes[at])
            np.clip(codes[at], -_LEVELS, _LEVELS, out=codes[at])
            error = errors[at - start]
            np.subtract(rest[at], codes[at], out=error)
            error /= root[at, at]
            if at + 1 < end:
                rest[at + 1 : end] -= root[at, at + 1 : end, None] * error
        if end < count:
            rest[end:] -= root[start:end, end:].T @ errors
    return codes
