"""How hidden states travel between the two halves of a split model.

A frame is a header and one record a row (one row: the hidden state of one position):

    header  codec u8 | flags u8 | num_outliers u16 | width u32 | num_rows u32         little-endian
    FLOAT32 width x f32                                                               for tests
    FLOAT16 width x f16                                                               fast networks
    INT8    index u16 x K | value f16 x K | scale f16 x blocks | q i8 x 64 x blocks   the default
    INT4    index u16 x K | value f16 x K | scale f16 x blocks | q u4 x 64 x blocks   slow uplinks, past a quality gate

Residual streams have a few channels, and on some tokens a few entries, that are hundreds of times larger than the
rest (2405.14428, 2503.22329), so one scale for a row is ruined by them: the K largest entries of every row travel by
themselves (after LLM.int8, 2208.07339), the rest in blocks of 64 with a scale each. Every block is first turned by the
orthonormal Hadamard matrix, its own inverse, which spreads what is left of a peak (QuaRot, 2404.00456): measured on a
135M model's hidden states, INT8 with two outliers so turned errs as little as with eight that are not, at 1.045 bytes
a unit instead of 1.087.

Quantising hides nothing: hidden states are handled as identifiable data whatever the codec.
"""

from __future__ import annotations

import enum
import struct

import numpy as np
from numpy.typing import NDArray

from partition.errors import ActivationError

BLOCK = 64  # entries that share a scale
MOST_OUTLIERS = 8  # entries of a row that travel by themselves, at most
INT8_BYTES_PER_UNIT = 1.05  # INT8 has as many outliers as fit into this
FLOAT16_MAX = 65504.0
MAX_WIDTH = 65536  # the index of an outlier has 16 bits
# |decoded - original| of an entry that is no outlier, in scales of its block: 64 errors of half a scale, over 8.
ERROR_SCALES = 4.01

_HEADER = struct.Struct("<BBHII")
HEADER_BYTES = _HEADER.size
_FLAG_WIDE = 1  # outliers as float32: one of the frame is beyond float16


class Codec(enum.IntEnum):
    """The format of the rows of a frame."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2
    INT4 = 3


def row_bytes(
    codec: Codec, width: int, *, num_outliers: int | None = None, wide: bool = False
) -> int:
    """Size of one row on the wire, without its share of the header.

    Args:
        codec: Format of the row.
        width: Hidden size, entries.
        num_outliers: Entries that travel by themselves (INT8, INT4); None: :func:`default_outliers`.
        wide: Outliers as float32, because one of the frame is beyond float16.
    """
    return _record(codec, width, _count(codec, width, num_outliers), wide).itemsize


def frame_bytes(codec: Codec, width: int, num_rows: int) -> int:
    """Size of a frame of ordinary rows, with its header."""
    return HEADER_BYTES + num_rows * row_bytes(codec, width)


def default_outliers(codec: Codec, width: int) -> int:
    """How many outliers a row has unless said: eight, or what fits into INT8's budget of bytes."""
    if codec is not Codec.INT8:
        return min(MOST_OUTLIERS, width)
    blocks = _num_blocks(width)
    spare = INT8_BYTES_PER_UNIT * width - blocks * (BLOCK + 2)
    return max(1, min(MOST_OUTLIERS, int(spare // 4)))


def encode(rows: NDArray[np.float32], codec: Codec, *, num_outliers: int | None = None) -> bytes:
    """Write hidden states as a frame.

    A frame that the codec cannot hold takes the next one that can: FLOAT16 beyond 65504 becomes INT8, and INT8 or INT4
    whose scale would leave float16 become FLOAT32. The header says which, so the reader need not be told.

    Args:
        rows: Hidden states ``(positions, width) float32``, all finite.
        codec: Wanted format.
        num_outliers: Entries of each row that travel by themselves; None: :func:`default_outliers`.

    Raises:
        ActivationError: Not two-dimensional, too wide, or not finite (the model overflowed).
    """
    if rows.ndim != 2 or not 0 < rows.shape[1] <= MAX_WIDTH:
        raise ActivationError(
            f"hidden states must be (positions, width) with 1 to {MAX_WIDTH} entries a row, not {rows.shape}"
        )
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ActivationError(
            "hidden states are not finite: the model overflowed; run the edge stage in float32"
        )
    if codec is Codec.FLOAT16 and rows.size and float(np.abs(rows).max()) > FLOAT16_MAX:
        codec = Codec.INT8
    if codec is Codec.FLOAT32:
        return _header(codec, 0, 0, rows) + rows.astype("<f4", copy=False).tobytes()
    if codec is Codec.FLOAT16:
        return _header(codec, 0, 0, rows) + rows.astype("<f2").tobytes()
    return _encode_blocks(rows, codec, _count(codec, rows.shape[1], num_outliers))


def decode(frame: bytes, *, width: int, max_rows: int) -> NDArray[np.float32]:
    """Read the hidden states of a frame; the bytes may be anybody's.

    Args:
        frame: What :func:`encode` wrote.
        width: Hidden size that the model has.
        max_rows: Most positions that one frame may carry.

    Returns:
        Hidden states ``(positions, width) float32``, a fresh array.

    Raises:
        ActivationError: The bytes are no such frame.
    """
    if len(frame) < HEADER_BYTES:
        raise ActivationError("the frame of hidden states is cut off; send it again")
    kind, flags, num_outliers, frame_width, num_rows = _HEADER.unpack_from(frame)
    if kind not in Codec.__members__.values() or flags & ~_FLAG_WIDE:
        raise ActivationError("the frame of hidden states has an unknown codec; update both ends")
    codec, wide = Codec(kind), bool(flags & _FLAG_WIDE)
    blocked = codec in (Codec.INT8, Codec.INT4)
    if frame_width != width or num_rows > max_rows:
        raise ActivationError(
            f"the frame of hidden states does not fit the model: {num_rows} rows of {frame_width}, "
            f"expected at most {max_rows} of {width}"
        )
    if num_outliers > width or (not blocked and (num_outliers or wide)):
        raise ActivationError("the frame of hidden states contradicts itself; send it again")
    record = _record(codec, width, num_outliers, wide)
    if len(frame) != HEADER_BYTES + num_rows * record.itemsize:
        raise ActivationError("the frame of hidden states has the wrong length; send it again")
    packed = np.frombuffer(frame, dtype=record, count=num_rows, offset=HEADER_BYTES)
    rows = _decode_blocks(packed, codec, width) if blocked else packed["x"].astype(np.float32)
    if not np.isfinite(rows).all():
        raise ActivationError("the frame of hidden states holds values that are not finite")
    return rows


def _encode_blocks(rows: NDArray[np.float32], codec: Codec, num_outliers: int) -> bytes:
    num_rows, width = rows.shape
    index = _largest(rows, num_outliers)
    value = np.take_along_axis(rows, index, axis=1)
    wide = bool(value.size) and float(np.abs(value).max()) > FLOAT16_MAX
    rest = np.zeros((num_rows, _num_blocks(width) * BLOCK), dtype=np.float32)
    rest[:, :width] = rows
    np.put_along_axis(rest, index, np.float32(0), axis=1)
    blocks: NDArray[np.float32] = rest.reshape(num_rows, _num_blocks(width), BLOCK) @ _HADAMARD
    most = 127 if codec is Codec.INT8 else 7
    exact = np.abs(blocks).max(axis=2) / np.float32(most)
    if exact.size and float(exact.max()) > FLOAT16_MAX:
        return _header(Codec.FLOAT32, 0, 0, rows) + rows.astype("<f4", copy=False).tobytes()
    scale = _float16_not_below(exact)
    divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)[:, :, None]
    q = (
        np.clip(np.rint(blocks / divisor), -most, most)
        .astype(np.int8)
        .reshape(num_rows, rest.shape[1])
    )
    packed = np.empty(num_rows, dtype=_record(codec, width, num_outliers, wide))
    packed["index"], packed["value"], packed["scale"] = index, value, scale
    if codec is Codec.INT8:
        packed["q"] = q
    else:
        nibbles = q.view(np.uint8) & 0xF
        packed["q"] = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    flags = _FLAG_WIDE if wide else 0
    return _header(codec, flags, num_outliers, rows) + packed.tobytes()


def _decode_blocks(packed: NDArray[np.void], codec: Codec, width: int) -> NDArray[np.float32]:
    index = packed["index"].astype(np.int64)
    if index.size and int(index.max()) >= width:
        raise ActivationError("the frame of hidden states names an entry that does not exist")
    if (np.diff(index, axis=1) <= 0).any():
        raise ActivationError("the frame of hidden states has its entries out of order")
    scale = packed["scale"].astype(np.float32)
    value = packed["value"].astype(np.float32)
    if not (np.isfinite(scale).all() and np.isfinite(value).all()) or (scale < 0).any():
        raise ActivationError("the frame of hidden states holds values that are not finite")
    if codec is Codec.INT8:
        q = packed["q"]
    else:
        nibbles = packed["q"]
        q = np.empty((len(packed), scale.shape[1] * BLOCK), dtype=np.int8)
        q[:, 0::2] = (nibbles << 4).view(np.int8) >> 4
        q[:, 1::2] = nibbles.view(np.int8) >> 4
    least = -127 if codec is Codec.INT8 else -7
    if (q < least).any():
        raise ActivationError("the frame of hidden states holds a step that no encoder writes")
    blocks = q.reshape(len(packed), scale.shape[1], BLOCK).astype(np.float32) * scale[:, :, None]
    blocks = blocks @ _HADAMARD
    whole = blocks.reshape(len(packed), scale.shape[1] * BLOCK)
    rows: NDArray[np.float32] = np.ascontiguousarray(whole[:, :width], dtype=np.float32)
    np.put_along_axis(rows, index, value, axis=1)
    return rows


def _largest(rows: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Columns of the ``count`` largest magnitudes of each row, ascending; the lower column on ties. Linear in width."""
    if count == 0 or rows.shape[0] == 0:
        return np.empty((rows.shape[0], count), dtype=np.int64)
    size = np.abs(rows)
    edge = np.partition(size, rows.shape[1] - count, axis=1)[:, rows.shape[1] - count, None]
    above = size > edge
    at_edge = size == edge
    wanted = count - above.sum(axis=1, keepdims=True)
    chosen = above | (at_edge & (np.cumsum(at_edge, axis=1) <= wanted))
    return np.nonzero(chosen)[1].reshape(rows.shape[0], count)


def _float16_not_below(scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round up, so that the largest entry of a block still has a step of its own."""
    rounded = scale.astype(np.float16)
    above = np.nextafter(rounded, np.float16(np.inf))
    return np.where(rounded.astype(np.float32) < scale, above, rounded)


def _record(codec: Codec, width: int, num_outliers: int, wide: bool) -> np.dtype[np.void]:
    if codec is Codec.FLOAT32:
        return np.dtype([("x", "<f4", (width,))])
    if codec is Codec.FLOAT16:
        return np.dtype([("x", "<f2", (width,))])
    blocks = _num_blocks(width)
    whole = blocks * BLOCK  # the last block is padded with zeros before it is turned
    steps = ("q", "i1", (whole,)) if codec is Codec.INT8 else ("q", "u1", (whole // 2,))
    return np.dtype(
        [
            ("index", "<u2", (num_outliers,)),
            ("value", "<f4" if wide else "<f2", (num_outliers,)),
            ("scale", "<f2", (blocks,)),
            steps,
        ]
    )


def _header(codec: Codec, flags: int, num_outliers: int, rows: NDArray[np.float32]) -> bytes:
    return _HEADER.pack(codec, flags, num_outliers, rows.shape[1], rows.shape[0])


def _count(codec: Codec, width: int, num_outliers: int | None) -> int:
    return min(default_outliers(codec, width) if num_outliers is None else num_outliers, width)


def _num_blocks(width: int) -> int:
    return -(-width // BLOCK)


def _hadamard() -> NDArray[np.float32]:
    """Sylvester's 64-point matrix over 8: orthonormal and symmetric, so it undoes itself."""
    matrix = np.ones((1, 1), dtype=np.float32)
    while len(matrix) < BLOCK:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]).astype(np.float32)
    scaled: NDArray[np.float32] = (matrix / np.sqrt(BLOCK)).astype(np.float32)
    return scaled


_HADAMARD = _hadamard()
