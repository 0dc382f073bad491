"""Reads GGUF files: metadata, and tensors that stay in the file until they are asked for.

The layout is the one of ``docs/gguf.md`` of ggml, versions 2 and 3, little-endian. Everything the file claims about sizes is
held against the bytes it has before anything is allocated: the file may be damaged, or made to do damage.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.weights.block_formats import QuantizedRows, TensorType, to_float32, unpack_rows


@dataclass(frozen=True, slots=True, eq=False)
class PackedTexts:
    """An array of strings as the file has it; a vocabulary of 150,000 is made into objects only when it is needed."""

    number: int
    data: memoryview = field(repr=False)  # a length of 8 bytes before each

    def unpack(self) -> tuple[str, ...]:
        """Decode every string.

        Raises:
            UnicodeDecodeError: One is no UTF-8.
        """
        unpack, position, found = struct.Struct("<Q").unpack_from, 0, []
        for _ in range(self.number):
            end = position + 8 + unpack(self.data, position)[0]
            found.append(str(self.data[position + 8 : end], "utf-8"))
            position = end
        return tuple(found)


MetadataValue = bool | int | float | str | npt.NDArray[np.generic] | PackedTexts

_MAGIC: Final = b"GGUF"
_DEFAULT_ALIGNMENT: Final = 32  # bytes, where the file does not say otherwise
_MAX_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
_STRING, _ARRAY = 8, 9
_SCALARS: Final[dict[int, str]] = {  # type number in the file -> numpy dtype
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_MIN_PAIR_BYTES: Final = 13  # of a key and its value: length, type, one byte
_MIN_TENSOR_BYTES: Final = 32  # of a tensor's entry: length, dimensions, one size, type, offset


@dataclass(frozen=True, slots=True, eq=False)
class GGUFTensor:
    """One tensor; its bytes are a view of the mapped file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # row-major as in numpy: the reverse of what the file says
    data: npt.NDArray[np.uint8] = field(repr=False)
    offset: int = 0  # of its first byte in the file

    @property
    def _matrix_shape(self) -> tuple[int, int]:
        return math.prod(self.shape[:-1]), self.shape[-1]

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Dequantise; a new array of ``shape``."""
        rows, columns = self._matrix_shape
        return to_float32(self.data, self.type, rows=rows, columns=columns).reshape(self.shape)

    def quantized(self) -> QuantizedRows:
        """Integers and scales of a quantised tensor, its leading dimensions folded into rows."""
        rows, columns = self._matrix_shape
        return unpack_rows(self.data, self.type, rows=rows, columns=columns)


class GGUFFile:
    """A mapped GGUF file. Immutable, so safe to share between threads."""

    def __init__(
        self, path: Path, metadata: dict[str, MetadataValue], tensors: dict[str, GGUFTensor]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Map a file and read its metadata and the list of its tensors.

        Raises:
            ModelFileError: The file is missing, damaged, truncated, or holds a tensor format we do not read.
        """
        try:
            data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ModelFileError(
                f"{path}: cannot be read ({type(error).__name__}); give the path of a GGUF file"
            ) from error
        cursor = _Cursor(path, data)
        metadata, entries = _read_header(cursor)
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16 or alignment % 8:
            raise cursor.damaged("its alignment makes no sense")
        start = -(-cursor.position // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for entry in entries:
            if entry.name in tensors:
                raise cursor.damaged("it has two tensors of one name")
            tensors[entry.name] = _bind(cursor, entry, start, data)
        return cls(path, metadata, tensors)

    def text(self, key: str, default: str | None = None) -> str:
        """A string of the metadata.

        Raises:
            ModelFileError: It is absent without a default, or no string.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer of the metadata; errors as for :meth:`text`."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number of the metadata; errors as for :meth:`text`."""
        value = self.metadata.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise self._wrong(key)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value of the metadata; errors as for :meth:`text`."""
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings of the metadata; errors as for :meth:`text`."""
        value = self.metadata.get(key)
        if not isinstance(value, PackedTexts):
            raise self._wrong(key)
        try:
            return value.unpack()
        except UnicodeDecodeError as error:
            raise self._wrong(key) from error

    def array(self, key: str) -> npt.NDArray[np.generic]:
        """An array of numbers of the metadata; errors as for :meth:`text`."""
        value = self.metadata.get(key)
        if not isinstance(value, np.ndarray):
            raise self._wrong(key)
        return value

    def _wrong(self, key: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: metadata {key!r} is missing or of the wrong type; fetch the file again"
        )


@dataclass(frozen=True, slots=True)
class _TensorEntry:
    name: str
    type_number: int
    shape: tuple[int, ...]
    offset: int


class _Cursor:
    """A position in the file that refuses to run past its end."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8]) -> None:
        self._path = path
        self._view = data.data
        self.size = len(self._view)
        self.position = 0

    def damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: no sound GGUF file, {what}; fetch it again")

    def take(self, num_bytes: int) -> memoryview:
        start = self.position
        if num_bytes > self.size - start:
            raise self.damaged("it ends too early")
        self.position = start + num_bytes
        return self._view[start : self.position]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self, least_bytes: int) -> int:
        """Read a number of things that take at least so many bytes each."""
        number = self.u64()
        if number * least_bytes > self.size - self.position:
            raise self.damaged("it ends too early")
        return number

    def text(self) -> str:
        raw = self.take(self.u64())
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("a name in it is no UTF-8") from error

    def texts(self, number: int) -> PackedTexts:
        """Step over many strings."""
        view, start, position, size = self._view, self.position, self.position, self.size
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(number):
            if position + 8 > size:
                raise self.damaged("it ends too early")
            position += 8 + unpack(view, position)[0]
            if position > size:
                raise self.damaged("it ends too early")
        self.position = position
        return PackedTexts(number, view[start:position])


def _read_header(cursor: _Cursor) -> tuple[dict[str, MetadataValue], list[_TensorEntry]]:
    if bytes(cursor.take(4)) != _MAGIC:
        raise cursor.damaged("it does not begin with GGUF")
    version = cursor.u32()
    if version not in (2, 3):
        raise cursor.damaged("its version is not 2 or 3, little-endian")
    num_tensors = cursor.count(_MIN_TENSOR_BYTES)
    num_pairs = cursor.count(_MIN_PAIR_BYTES)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_pairs):
        key = cursor.text()
        metadata[key] = _read_value(cursor, cursor.u32())
    return metadata, [_read_entry(cursor) for _ in range(num_tensors)]


def _read_value(cursor: _Cursor, type_number: int) -> MetadataValue:
    if type_number == _STRING:
        return cursor.text()
    if type_number == _ARRAY:
        element = cursor.u32()
        if element == _STRING:
            return cursor.texts(cursor.count(8))
        if element not in _SCALARS:
            raise cursor.damaged("it holds an array of unknown type")
        dtype = np.dtype(_SCALARS[element])
        number = cursor.count(dtype.itemsize)
        return np.frombuffer(cursor.take(number * dtype.itemsize), dtype)
    if type_number not in _SCALARS:
        raise cursor.damaged("it holds a value of unknown type")
    dtype = np.dtype(_SCALARS[type_number])
    value: bool | int | float = np.frombuffer(cursor.take(dtype.itemsize), dtype)[0].item()
    return value


def _read_entry(cursor: _Cursor) -> _TensorEntry:
    name = cursor.text()
    num_dimensions = cursor.u32()
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged("a tensor in it has an impossible number of dimensions")
    sizes = [cursor.u64() for _ in range(num_dimensions)]
    if not all(sizes):
        raise cursor.damaged("a tensor in it is empty")
    return _TensorEntry(
        name=name,
        shape=tuple(reversed(sizes)),
        type_number=cursor.u32(),
        offset=cursor.u64(),
    )


def _bind(
    cursor: _Cursor, entry: _TensorEntry, start: int, data: npt.NDArray[np.uint8]
) -> GGUFTensor:
    try:
        tensor_type = TensorType(entry.type_number)
    except ValueError as error:
        raise cursor.damaged(
            f"a tensor in it has format number {entry.type_number}, and we read only "
            + ", ".join(known.name for known in TensorType)
        ) from error
    if entry.shape[-1] % tensor_type.block_values:
        raise cursor.damaged("a row of a tensor in it is no whole number of blocks")
    num_bytes = math.prod(entry.shape) // tensor_type.block_values * tensor_type.block_bytes
    begin = start + entry.offset
    if begin + num_bytes > cursor.size:
        raise cursor.damaged("it ends before its last tensor")
    # A plain array, not a memmap: slices of the subclass cost microseconds each.
    view = np.asarray(data)[begin : begin + num_bytes]
    return GGUFTensor(name=entry.name, type=tensor_type, shape=entry.shape, data=view, offset=begin)
