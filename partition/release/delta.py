r"""Deltas between two releases of a file, by tensor; the smallest of six codings for each region.

    same      the base's bytes
    gap       residual; LEB128 gaps to the next change, and the changes; each zstd-19
    residual  residual, plane after plane; zstd-19
    graded    16-bit floats: distances in the order of floats, by the old value's exponent; each grade as gap or zstd-19
    prefix    zstd-19 with the base's bytes as raw prefix (what ``zstd --patch-from`` does)
    full      zstd-19

A light fine-tune changes a few per cent of the codes, everywhere: chunking finds nothing to share, and a general
coder pays for finding out. A residual tells where and what. The form of the file:

    "TNDMDLT2" | uint32 length of the header | header, JSON, zstd | payload of each region in order

Applying reads one region at a time (memory: three times the largest tensor at most) and returns the SHA-256 of what it
wrote: **a delta is never trusted, its result is compared with the manifest.**
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import DeltaError
from partition.release.graded import (
    BFLOAT16_BITS,
    CHUNK_VALUES,
    FLOAT16_BITS,
    join_grades,
    split_grades,
)
from partition.release.residual import (
    Bytes,
    add,
    add_at,
    decode_gaps,
    encode_gaps,
    from_planes,
    subtract,
    to_planes,
)
from partition.weights.tensor_layout import HALF, Layout, Region, block_bytes, read_regions
from partition.weights.tensor_layout import Field as LayoutField

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODEC = "tandem-delta-2"
MAGIC = b"TNDMDLT2"
LEVEL = 19
MAX_HEADER_BYTES = 64 << 20
# Coding a region as new bytes takes minutes a gigabyte; where the residual is this small it never wins.
GOOD_RESIDUAL_RATIO = 1 / 2
SMALL_BYTES = 64 << 10  # below this, all codings are tried
MIN_PREFIX_BYTES = 8  # zstd takes no shorter dictionary


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSize:
    """What a delta came to."""

    delta_bytes: int
    result_bytes: int
    by_coding: tuple[tuple[str, int], ...]  # result bytes made by each coding


def make_delta(base: Path, new: Path, output: Path) -> DeltaSize:
    """Write the delta from ``base`` to ``new``; both stay as they are. Takes seconds per 10 MB."""
    names = {region.name: region for region in read_regions(base) if region.name}
    heads = [region for region in read_regions(base) if not region.name]
    steps: list[dict[str, object]] = []
    payloads: list[bytes] = []
    shares: dict[str, int] = {}
    with _mapped(base) as old, _mapped(new) as fresh:
        for number, region in enumerate(read_regions(new)):
            partner = names.get(region.name) if region.name else None
            if partner is None and not region.name:
                partner = heads[min(number, len(heads) - 1)] if heads else None
            start, end = (partner.start, partner.end) if partner else (0, 0)
            if partner is not None and partner.layout != region.layout:
                start, end = partner.start, partner.start  # other type: nothing to subtract
            coding, payload = _encode(
                old[start:end], fresh[region.start : region.end], region.layout
            )
            steps.append(
                {
                    "coding": coding,
                    "bytes": region.end - region.start,
                    "base_start": start,
                    "base_end": end,
                    "layout": _layout_text(region),
                    "payload": len(payload),
                }
            )
            payloads.append(payload)
            shares[coding] = shares.get(coding, 0) + region.end - region.start
        header = _Header(
            base_sha256=hashlib.sha256(old.data).hexdigest(),
            result_bytes=len(fresh),
            steps=[_Step.model_validate(step) for step in steps],
        )
    packed = zstd.compress(header.model_dump_json().encode(), LEVEL)
    with output.open("wb") as file:
        file.write(MAGIC + struct.pack("<I", len(packed)) + packed)
        for payload in payloads:
            file.write(payload)
    return DeltaSize(
        delta_bytes=output.stat().st_size,
        result_bytes=header.result_bytes,
        by_coding=tuple(sorted(shares.items())),
    )


def apply_delta(base: Path, delta: Path, write: Callable[[bytes], object]) -> str:
    """Make the new file out of the base and the delta, region by region.

    Args:
        base: The file that the device holds.
        delta: What :func:`make_delta` wrote.
        write: Takes the result, in order.

    Returns:
        SHA-256 of what was written; the caller compares it with the manifest.

    Raises:
        DeltaError: The delta is damaged, or made for another base.
    """
    digest = hashlib.sha256()
    with delta.open("rb") as file, _mapped(base) as old:
        header = _read_header(file.read(len(MAGIC) + 4), file.read)
        if hashlib.sha256(old.data).hexdigest() != header.base_sha256:
            raise DeltaError("the delta was made for another base; fetch the whole file")
        for step in header.steps:
            payload = file.read(step.payload)
            if len(payload) != step.payload:
                raise DeltaError("the delta ends too early; fetch it again")
            result = _decode(old, step, payload)
            digest.update(result)
            write(result)
    return digest.hexdigest()


def _encode(old: Bytes, new: Bytes, layout: Layout) -> tuple[str, bytes]:
    if len(old) == len(new) and np.array_equal(old, new):
        return "same", b""
    choices: list[tuple[str, bytes]] = []
    if len(old) == len(new) and len(new) % block_bytes(layout) == 0:
        residual = to_planes(subtract(new, old, layout), layout)
        choices.append(("gap", _pack_gaps(residual)))
        choices.append(("residual", zstd.compress(residual.tobytes(), options=_options(len(new)))))
        if layout == HALF:
            choices.append(("graded", _pack_graded(new, old)))
    best = min((len(payload) for _, payload in choices), default=len(new))
    if len(new) <= SMALL_BYTES or best > len(new) * GOOD_RESIDUAL_RATIO:
        if len(old) >= MIN_PREFIX_BYTES:
            dictionary = zstd.ZstdDict(old.tobytes(), is_raw=True).as_prefix
            options = _options(len(new) + len(old))
            choices.append(
                ("prefix", zstd.compress(new.tobytes(), options=options, zstd_dict=dictionary))
            )
        choices.append(("full", zstd.compress(new.tobytes(), options=_options(len(new)))))
    return min(choices, key=lambda choice: len(choice[1]))


def _decode(old: Bytes, step: _Step, payload: bytes) -> bytes:
    part = old[step.base_start : step.base_end]
    if step.coding == "same":
        if len(part) != step.bytes:
            raise DeltaError(
                "the delta names bytes that the base does not have; fetch the whole file"
            )
        return part.tobytes()
    if step.coding in ("full", "prefix"):
        dictionary = None
        if step.coding == "prefix":
            if len(part) < MIN_PREFIX_BYTES:
                raise DeltaError(
                    "the delta names bytes that the base does not have; fetch the whole file"
                )
            dictionary = zstd.ZstdDict(part.tobytes(), is_raw=True).as_prefix
        result = _decompress(payload, step.bytes, dictionary)
        if len(result) != step.bytes:
            raise DeltaError("a region of the delta has the wrong length; fetch it again")
        return result
    layout = _parse_layout(step.layout)
    if len(part) != step.bytes or step.bytes % block_bytes(layout):
        raise DeltaError("the delta names bytes that the base does not have; fetch the whole file")
    if step.coding == "residual":
        coded = np.frombuffer(_decompress(payload, step.bytes, None), np.uint8)
        if len(coded) != step.bytes:
            raise DeltaError("a region of the delta has the wrong length; fetch it again")
        return add(part, from_planes(coded, layout), layout).tobytes()
    if step.coding == "graded":
        if layout != HALF:
            raise DeltaError("a region of the delta is damaged; fetch it again")
        return _unpack_graded(payload, part)
    gaps, values = _unpack_gaps(payload, step.bytes)
    return add_at(part, decode_gaps(gaps, values, step.bytes), values, layout)


def _pack_gaps(residual: Bytes) -> bytes:
    """Compress gaps and changes apart: in one stream they would share a table of frequencies, for a fifth more bytes."""
    gaps, values = (
        zstd.compress(part, options=_options(len(part))) for part in encode_gaps(residual)
    )
    return struct.pack("<I", len(gaps)) + gaps + values


def _pack_graded(new: Bytes, old: Bytes) -> bytes:
    """Code every grade by itself; float16 and bfloat16 have their exponents in other places, so both are tried."""

    def pack(size: int, bits: int) -> bytes:
        coded = (_pack_plane(plane) for plane in split_grades(new[:size], old[:size], bits))
        return bytes([bits]) + b"".join(coded)

    trial = min(len(new), 2 * CHUNK_VALUES)
    packed = {bits: pack(trial, bits) for bits in (FLOAT16_BITS, BFLOAT16_BITS)}
    best = min(packed, key=lambda bits: len(packed[bits]))
    return packed[best] if trial == len(new) else pack(len(new), best)


def _pack_plane(plane: Bytes) -> bytes:
    if not plane.any():
        return b"0"
    gaps, whole = (
        _pack_gaps(plane),
        zstd.compress(plane.tobytes(), options=_options(len(plane))),
    )
    kind, coded = (b"g", gaps) if len(gaps) < len(whole) else (b"z", whole)
    return kind + struct.pack("<I", len(coded)) + coded


def _unpack_graded(payload: bytes, old: Bytes) -> bytes:
    bits = payload[0] if payload else 0
    if bits not in (FLOAT16_BITS, BFLOAT16_BITS):
        raise DeltaError("a region of the delta is damaged; fetch it again")
    reader = _PlaneReader(payload)
    return join_grades(reader.take, old, bits)


class _PlaneReader:
    """Reads the planes of a graded region in order."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 1

    def take(self, size: int) -> Bytes:
        kind = self._payload[self._at : self._at + 1]
        if kind == b"0":
            self._at += 1
            return np.zeros(size, np.uint8)
        begin = self._at + 5
        if kind not in (b"g", b"z") or len(self._payload) < begin:
            raise DeltaError("a region of the delta is damaged; fetch it again")
        (length,) = struct.unpack("<I", self._payload[begin - 4 : begin])
        self._at = begin + length
        coded = self._payload[begin : self._at]
        if kind == b"z":
            plane = np.frombuffer(_decompress(coded, size, None), np.uint8)
            if len(plane) != size:
                raise DeltaError("a region of the delta has the wrong length; fetch it again")
            return plane
        gaps, values = _unpack_gaps(coded, size)
        plane = np.zeros(size, np.uint8)
        plane[decode_gaps(gaps, values, size)] = values
        return plane


def _unpack_gaps(payload: bytes, size: int) -> tuple[Bytes, Bytes]:
    if len(payload) < 4:
        raise DeltaError("a region of the delta is damaged; fetch it again")
    (length,) = struct.unpack("<I", payload[:4])
    gaps = _decompress(payload[4 : 4 + length], 9 * size, None)  # no gap takes more than nine bytes
    values = _decompress(payload[4 + length :], size, None)
    return np.frombuffer(gaps, np.uint8), np.frombuffer(values, np.uint8)


def _options(size: int) -> dict[int, int]:
    window = min(max(int(size).bit_length(), 10), 27)
    return {
        zstd.CompressionParameter.compression_level: LEVEL,
        zstd.CompressionParameter.window_log: window,
        zstd.CompressionParameter.enable_long_distance_matching: int(size > 1 << 24),
        zstd.CompressionParameter.checksum_flag: 0,  # the manifest's hash covers the result
    }


def _decompress(payload: bytes, room: int, dictionary: object) -> bytes:
    """Decompress at most ``room`` bytes: what claims to be longer is damage, or an attack on memory."""
    try:
        decompressor = zstd.ZstdDecompressor(
            zstd_dict=dictionary,  # type: ignore[arg-type]  # the stubs do not know the pair that as_prefix gives
            options={zstd.DecompressionParameter.window_log_max: 30},
        )
        result: bytes = decompressor.decompress(payload, max_length=room)
        if not decompressor.eof and decompressor.decompress(b"", max_length=1):
            raise DeltaError("a region of the delta is longer than it says; fetch it again")
    except (zstd.ZstdError, EOFError) as error:
        raise DeltaError("a region of the delta cannot be decompressed; fetch it again") from error
    return result


def _layout_text(region: Region) -> str:
    return " ".join(f"{field.operation}{field.width}" for field in region.layout)


def _parse_layout(text: str) -> Layout:
    return tuple(
        LayoutField(word.rstrip("0123456789"), int(word.lstrip("abcdefghijklmnopqrstuvwxyz")))
        for word in text.split(" ")
    )


@contextmanager
def _mapped(path: Path) -> Iterator[Bytes]:
    """Map a file for reading; its pages belong to the page cache, not to this process."""
    if path.stat().st_size == 0:
        yield np.zeros(0, np.uint8)
        return
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = np.frombuffer(mapped, np.uint8)
        try:
            yield view
        finally:
            del view  # the mapping ends with its last view


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)
    coding: Literal["same", "gap", "residual", "graded", "prefix", "full"]
    bytes: Annotated[int, Field(ge=0)]
    base_start: Annotated[int, Field(ge=0)]
    base_end: Annotated[int, Field(ge=0)]
    layout: Annotated[
        str, Field(pattern=r"^(xor|sub|split)[1-9]\d{0,2}( (xor|sub|split)[1-9]\d{0,2}){0,7}$")
    ]
    payload: Annotated[int, Field(ge=0)]


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    base_sha256: str
    result_bytes: Annotated[int, Field(ge=0)]
    steps: list[_Step]


def _read_header(front: bytes, read: Callable[[int], bytes]) -> _Header:
    if len(front) != len(MAGIC) + 4 or front[: len(MAGIC)] != MAGIC:
        raise DeltaError("this is no delta that this version can apply; fetch the whole file")
    (length,) = struct.unpack("<I", front[len(MAGIC) :])
    if length > MAX_HEADER_BYTES:
        raise DeltaError("the delta's header is too long; fetch the whole file")
    try:
        return _Header.model_validate_json(_decompress(read(length), MAX_HEADER_BYTES, None))
    except ValidationError as error:
        raise DeltaError("the delta's header is damaged; fetch it again") from error
