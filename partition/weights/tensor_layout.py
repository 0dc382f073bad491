"""Where the tensors of a weights file lie, and how the bytes of each are built.

A delta compares two releases tensor by tensor, and inside a tensor plane by plane: the exponents of half-precision
scales change together, the codes of a quantised block do not. Only the table of contents is read, never a tensor.
Any other file, and any header, is one region of plain bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partition.errors import ModelFileError
from partition.weights.block_formats import TensorType
from partition.weights.gguf import GGUFFile

MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """``width`` bytes of one block. ``split``: XOR, each byte a plane of its own; ``xor``; ``sub``: modulo 256."""

    operation: str
    width: int


Layout = tuple[Field, ...]
PLAIN: Layout = (Field("xor", 1),)
INT8: Layout = (Field("sub", 1),)
HALF: Layout = (Field("split", 2),)
SINGLE: Layout = (Field("split", 4),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A run of bytes of a file; the regions of a file are disjoint, in order, and cover it."""

    name: str  # of the tensor; "" for what lies between tensors
    start: int
    end: int
    layout: Layout


_HALF_BYTES, _NIBBLES = Field("split", 2), Field("xor", 16)
# Fields of one block, in file order; from ggml-common.h, as in block_formats.py.
_GGML: dict[TensorType, Layout] = {
    TensorType.F32: SINGLE,
    TensorType.F16: HALF,
    TensorType.BF16: HALF,
    TensorType.Q4_0: (_HALF_BYTES, _NIBBLES),
    TensorType.Q4_1: (_HALF_BYTES, _HALF_BYTES, _NIBBLES),
    TensorType.Q5_0: (_HALF_BYTES, Field("xor", 4), _NIBBLES),
    TensorType.Q5_1: (_HALF_BYTES, _HALF_BYTES, Field("xor", 4), _NIBBLES),
    TensorType.Q8_0: (_HALF_BYTES, Field("sub", 32)),
    TensorType.Q4_K: (_HALF_BYTES, _HALF_BYTES, Field("xor", 12), Field("xor", 128)),
    TensorType.Q5_K: (
        _HALF_BYTES,
        _HALF_BYTES,
        Field("xor", 12),
        Field("xor", 32),
        Field("xor", 128),
    ),
    TensorType.Q6_K: (Field("xor", 128), Field("xor", 64), Field("sub", 16), _HALF_BYTES),
}
_SAFETENSORS: dict[str, Layout] = {
    "F32": SINGLE,
    "F16": HALF,
    "BF16": HALF,
    "I8": INT8,
    "U8": PLAIN,
    "I32": SINGLE,
    "F64": (Field("split", 8),),
    "I64": (Field("split", 8),),
}


def block_bytes(layout: Layout) -> int:
    """Bytes of one block."""
    return sum(field.width for field in layout)


def read_regions(path: Path) -> tuple[Region, ...]:
    """Find the tensors of a GGUF or safetensors file; a file of any other kind, or a damaged one, is one region.

    It never fails on content: how the bytes are compared decides how small a delta is, not whether it is right.
    """
    size = path.stat().st_size
    reader = _READERS.get(path.suffix)
    if reader is None or size == 0:
        return _cover((), size)
    try:
        tensors = reader(path)
    except (ModelFileError, ValueError, KeyError, TypeError, struct.error):
        tensors = []  # no table of contents that we can read
    return _cover(tensors, size)


def _cover(tensors: list[Region] | tuple[Region, ...], size: int) -> tuple[Region, ...]:
    """Order the tensors, drop what overlaps or lies outside, and fill the space between them."""
    regions: list[Region] = []
    at = 0
    for tensor in sorted(tensors, key=lambda region: region.start):
        if tensor.start < at or tensor.end > size or tensor.end <= tensor.start:
            continue
        if tensor.start > at:
            regions.append(Region(name="", start=at, end=tensor.start, layout=PLAIN))
        regions.append(tensor)
        at = tensor.end
    if at < size:
        regions.append(Region(name="", start=at, end=size, layout=PLAIN))
    return tuple(regions)


def _read_safetensors(path: Path) -> list[Region]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError("header too long")
        header = json.loads(file.read(length))
    regions = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + int(at) for at in entry["data_offsets"])
        layout = _SAFETENSORS.get(entry["dtype"], PLAIN)
        regions.append(Region(name=str(name), start=start, end=end, layout=layout))
    return regions


def _read_gguf(path: Path) -> list[Region]:
    return [
        Region(
            name=tensor.name,
            start=tensor.offset,
            end=tensor.offset + tensor.data.size,
            layout=_GGML[tensor.type],
        )
        for tensor in GGUFFile.open(path).tensors.values()
    ]


_READERS: dict[str, Callable[[Path], list[Region]]] = {
    ".gguf": _read_gguf,
    ".safetensors": _read_safetensors,
}
