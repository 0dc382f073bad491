"""Residuals of 16-bit floats, sorted by the size of the value they change.

A fine-tune moves every weight by about the same amount, so a small weight moves by many of its last places, and a large one
by none. The receiver has the old weights: both ends sort the residuals by the *old* value's exponent, and each grade then
has one narrow distribution of its own, which a general coder finds by itself. In XOR of bit patterns, as one mixed stream,
the same change takes half as much again.

A residual is the distance of two values in the order of all 16-bit floats, folded to small whole numbers: 0, -1, 1, -2, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from partition.release.residual import Bytes

FLOAT16_BITS, BFLOAT16_BITS = 10, 7  # of the mantissa, which ends where the exponent begins
CHUNK_VALUES = 1 << 20  # sorted at once: memory stays small, and grades follow the tensor

Words = npt.NDArray[np.uint16]


def split_grades(new: Bytes, old: Bytes, mantissa_bits: int) -> Iterator[Bytes]:
    """Yield two byte planes for each grade of each chunk of two tensors of the same size, as :func:`join_grades` takes them."""
    fresh, base = new.view(np.uint16), old.view(np.uint16)
    for start in range(0, len(base), CHUNK_VALUES):
        chunk = slice(start, start + CHUNK_VALUES)
        folded = _fold(_place(fresh[chunk]) - _place(base[chunk]))
        for where in _grades(base[chunk], mantissa_bits):
            values = folded[where]
            yield (values & np.uint16(255)).astype(np.uint8)
            yield (values >> np.uint16(8)).astype(np.uint8)


def join_grades(take: Callable[[int], Bytes], old: Bytes, mantissa_bits: int) -> bytes:
    """Make the new tensor out of the old one and its planes.

    Args:
        take: Returns the next plane, of the given length.
        old: The base's bytes.
        mantissa_bits: As the planes were made with.
    """
    base = old.view(np.uint16)
    result = np.empty_like(base)
    for start in range(0, len(base), CHUNK_VALUES):
        chunk = base[start : start + CHUNK_VALUES]
        folded = np.empty_like(chunk)
        for where in _grades(chunk, mantissa_bits):
            low, high = take(len(where)), take(len(where))
            folded[where] = low.astype(np.uint16) | high.astype(np.uint16) << np.uint16(8)
        result[start : start + CHUNK_VALUES] = _value(_place(chunk) + _unfold(folded))
    return result.tobytes()


def _grades(base: Words, mantissa_bits: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield where the values of each exponent stand, the smallest first."""
    sizes = (base & np.uint16(0x7FFF)) >> np.uint16(mantissa_bits)
    order = np.argsort(sizes.astype(np.uint8), kind="stable")  # of bytes: a radix sort
    ends = np.flatnonzero(np.diff(sizes[order])) + 1
    yield from np.split(order, ends)


def _place(values: Words) -> Words:
    """Number the floats in their order: the negative ones backwards, then the positive ones."""
    is_negative = values >> np.uint16(15)
    return values ^ (is_negative * np.uint16(0x7FFF) | np.uint16(0x8000))


def _value(places: Words) -> Words:
    """Undo :func:`_place`."""
    is_negative = np.uint16(1) - (places >> np.uint16(15))
    return places ^ (is_negative * np.uint16(0x7FFF) | np.uint16(0x8000))


def _fold(distance: Words) -> Words:
    """Map 0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    return (distance << np.uint16(1)) ^ ((distance >> np.uint16(15)) * np.uint16(0xFFFF))


def _unfold(folded: Words) -> Words:
    return (folded >> np.uint16(1)) ^ ((folded & np.uint16(1)) * np.uint16(0xFFFF))
