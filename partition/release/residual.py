"""What changed between two versions of a tensor: residuals, taken apart into planes, and gaps between changes.

Pure functions of byte arrays. A plane holds the same byte of every block (see :mod:`partition.weights.tensor_layout`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from partition.errors import DeltaError
from partition.weights.tensor_layout import Layout, block_bytes

Bytes = npt.NDArray[np.uint8]


def subtract(new: Bytes, old: Bytes, layout: Layout) -> Bytes:
    """Return what :func:`add` needs to make ``new`` out of ``old``, in the order of the file."""
    residual = new ^ old
    for start, width in _sub_columns(layout):
        size = block_bytes(layout)
        columns = slice(start, start + width)
        residual.reshape(-1, size)[:, columns] = (
            new.reshape(-1, size)[:, columns] - old.reshape(-1, size)[:, columns]
        )
    return residual


def add(old: Bytes, residual: Bytes, layout: Layout) -> Bytes:
    """Undo :func:`subtract`."""
    result = old ^ residual
    for start, width in _sub_columns(layout):
        size = block_bytes(layout)
        columns = slice(start, start + width)
        result.reshape(-1, size)[:, columns] = (
            old.reshape(-1, size)[:, columns] + residual.reshape(-1, size)[:, columns]
        )
    return result


def add_at(old: Bytes, positions: npt.NDArray[np.int64], values: Bytes, layout: Layout) -> bytes:
    """Change only the bytes that differ: the planes of the base are never taken apart."""
    result = old.copy()
    size = block_bytes(layout)
    blocks = len(old) // size
    edges = np.array([start * blocks for start, _, _ in _planes(layout)] + [len(old)], np.int64)
    bounds = np.searchsorted(positions, edges)
    for (start, width, subtracts), first, last, low in zip(
        _planes(layout), bounds[:-1], bounds[1:], edges[:-1], strict=True
    ):
        inside = positions[first:last] - low
        where = inside if width == size else inside // width * size + start + inside % width
        if subtracts:
            result[where] += values[first:last]
        else:
            result[where] ^= values[first:last]
    return result.tobytes()


def _planes(layout: Layout) -> list[tuple[int, int, bool]]:
    """Return first byte in the block, width, and whether it is subtracted, of each plane in order."""
    planes, at = [], 0
    for field in layout:
        widths = [1] * field.width if field.operation == "split" else [field.width]
        for width in widths:
            planes.append((at, width, field.operation == "sub"))
            at += width
    return planes


def _sub_columns(layout: Layout) -> list[tuple[int, int]]:
    return [(start, width) for start, width, subtracts in _planes(layout) if subtracts]


def to_planes(values: Bytes, layout: Layout) -> Bytes:
    """Order bytes plane after plane."""
    planes = _planes(layout)
    if len(planes) == 1:
        return values
    blocks = values.reshape(-1, block_bytes(layout))
    return np.concatenate(
        [blocks[:, start : start + width].reshape(-1) for start, width, _ in planes]
    )


def from_planes(values: Bytes, layout: Layout) -> Bytes:
    """Undo :func:`to_planes`."""
    planes = _planes(layout)
    if len(planes) == 1:
        return values
    result = np.empty((len(values) // block_bytes(layout), block_bytes(layout)), np.uint8)
    at = 0
    for start, width, _ in planes:
        size = len(result) * width
        result[:, start : start + width] = values[at : at + size].reshape(-1, width)
        at += size
    return result.reshape(-1)


def encode_gaps(residual: Bytes) -> tuple[bytes, bytes]:
    """Return the number of unchanged bytes before each change (LEB128), and the changes."""
    positions = np.flatnonzero(residual)
    gaps = np.diff(positions, prepend=-1) - 1
    return _leb128(gaps).tobytes() if len(gaps) else b"", residual[positions].tobytes()


def decode_gaps(coded: Bytes, values: Bytes, size: int) -> npt.NDArray[np.int64]:
    """Return the positions of the changes.

    Raises:
        DeltaError: It is damaged, or names a position at or beyond ``size``.
    """
    gaps = _unleb128(coded)
    # Each gap is checked before the sum, which could wrap round.
    if len(gaps) != len(values) or (len(gaps) and int(gaps.max()) >= size):
        raise DeltaError("a region of the delta is damaged; fetch it again")
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(positions) and int(positions[-1]) >= size:
        raise DeltaError("a region of the delta is damaged; fetch it again")
    return positions


def _leb128(numbers: npt.NDArray[np.int64]) -> Bytes:
    lengths = np.ones(len(numbers), np.int64)
    rest = numbers >> 7
    while rest.any():
        lengths += rest > 0
        rest >>= 7
    starts = np.cumsum(lengths) - lengths
    coded = np.empty(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max())):
        longer = lengths > place
        digits = (numbers[longer] >> (7 * place)) & 127
        digits += (lengths[longer] > place + 1) * 128
        coded[starts[longer] + place] = digits
    return coded


def _unleb128(coded: Bytes) -> npt.NDArray[np.uint64]:
    if not len(coded):
        return np.zeros(0, np.uint64)
    ends = np.flatnonzero(coded < 128)
    if not len(ends) or ends[-1] != len(coded) - 1:
        raise DeltaError("a region of the delta is damaged; fetch it again")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if int((ends - starts).max()) > 8:
        raise DeltaError("a region of the delta is damaged; fetch it again")
    place = np.arange(len(coded)) - np.repeat(starts, ends - starts + 1)
    digits = (coded & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(digits, starts)
