"""The activation codec: sizes, error bounds, fallbacks, and bytes that nobody should send."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from partition.errors import ActivationError
from partition.extend.activations import (
    BLOCK,
    ERROR_SCALES,
    HEADER_BYTES,
    Codec,
    decode,
    default_outliers,
    encode,
    frame_bytes,
    row_bytes,
)

Rows = NDArray[np.float32]

rows_of_any_kind = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 150)),
    elements=st.floats(-3e4, 3e4, width=32),
)


def massive(num_rows: int = 5, width: int = 200, seed: int = 0) -> Rows:
    """Rows as language models have them: small entries, a few channels large, the first row massive."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (num_rows, width)).astype(np.float32)
    rows[:, 7] *= 60
    rows[0, 3] = 9000
    return rows


@pytest.mark.parametrize(
    ("width", "sizes"),
    [
        (576, (2304, 1152, 626, 338)),
        (896, (3584, 1792, 956, 508)),
        (1536, (6144, 3072, 1616, 848)),
        (4096, (16384, 8192, 4256, 2208)),
    ],
)
def test_bytes_of_a_row_are_those_of_the_table(width: int, sizes: tuple[int, ...]) -> None:
    assert tuple(row_bytes(codec, width, num_outliers=8) for codec in Codec) == sizes
    rows = massive(3, width)
    for codec, size in zip(Codec, sizes, strict=True):
        assert len(encode(rows, codec, num_outliers=8)) == HEADER_BYTES + 3 * size
        assert len(encode(rows, codec)) == frame_bytes(codec, width, 3)


@pytest.mark.parametrize(("width", "count"), [(576, 2), (896, 4), (1536, 7), (4096, 8), (64, 1)])
def test_int8_keeps_to_its_budget_of_bytes(width: int, count: int) -> None:
    assert default_outliers(Codec.INT8, width) == count
    if width > 64:
        assert row_bytes(Codec.INT8, width) <= 1.05 * width
    assert default_outliers(Codec.INT4, width) == 8


@settings(deadline=None)
@given(rows_of_any_kind)
def test_float32_is_exact(rows: Rows) -> None:
    got = decode(encode(rows, Codec.FLOAT32), width=rows.shape[1], max_rows=4)
    np.testing.assert_array_equal(got, rows)


@settings(deadline=None)
@given(rows_of_any_kind)
def test_float16_is_rounding_only(rows: Rows) -> None:
    got = decode(encode(rows, Codec.FLOAT16), width=rows.shape[1], max_rows=4)
    np.testing.assert_array_equal(got, rows.astype(np.float16).astype(np.float32))


@settings(deadline=None)
@given(rows_of_any_kind, st.integers(0, 9), st.sampled_from([(Codec.INT8, 127), (Codec.INT4, 7)]))
def test_the_error_of_a_block_is_within_four_scales(
    rows: Rows, num_outliers: int, coded: tuple[Codec, int]
) -> None:
    codec, steps = coded
    frame = encode(rows, codec, num_outliers=num_outliers)
    got = decode(frame, width=rows.shape[1], max_rows=4)
    assert_within(rows, got, min(num_outliers, rows.shape[1]), steps)


def assert_within(rows: Rows, got: Rows, num_outliers: int, steps: int) -> None:
    """Written slowly on purpose: row by row, the way the format is described."""
    for row, read in zip(rows, got, strict=True):
        order = sorted(range(len(row)), key=lambda column: (-abs(row[column]), column))
        large = order[:num_outliers]
        for column in large:
            assert read[column] == np.float32(np.float16(row[column]))
        rest = row.copy()
        rest[large] = 0
        for start in range(0, len(row), BLOCK):
            block = rest[start : start + BLOCK]
            # The scale is taken after the turn, which may raise the peak as far as the block's length.
            peak = float(np.sqrt((block.astype(np.float64) ** 2).sum()))
            # A float16 scale is rounded up by at most 2^-10, or by the smallest one there is.
            bound = ERROR_SCALES * (peak / steps * (1 + 2**-10) + 2**-24)
            keep = np.ones(len(block), dtype=bool)
            keep[[column - start for column in large if start <= column < start + BLOCK]] = False
            wrong = np.abs(read[start : start + BLOCK] - row[start : start + BLOCK])[keep]
            assert (wrong <= bound).all()


def test_the_turn_halves_the_error_of_rows_with_large_channels() -> None:
    rows = massive(40, 576)
    rows[:, 100:110] *= 12
    got = decode(encode(rows, Codec.INT8), width=576, max_rows=40)
    blocks = rows.reshape(40, 9, 64).copy()
    large = np.argsort(-np.abs(rows), axis=1)[:, :2]
    rest = rows.copy()
    np.put_along_axis(rest, large, np.float32(0), axis=1)
    blocks = rest.reshape(40, 9, 64)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 127
    plain = (np.rint(blocks / scale) * scale - blocks).reshape(40, 576)
    keep = rest != 0
    assert np.square((got - rows)[keep]).mean() < 0.5 * np.square(plain[keep]).mean()


def test_a_massive_entry_does_not_ruin_the_others() -> None:
    rows = massive()
    got = decode(encode(rows, Codec.INT8, num_outliers=2), width=200, max_rows=5)
    small = np.abs(rows) < 10
    assert np.abs(got - rows)[small].max() < 0.03
    single_scale = np.rint(rows[0] / (9000 / 127)) * (9000 / 127)
    assert np.abs(single_scale - rows[0])[small[0]].max() > 1


def test_float16_beyond_its_range_travels_as_int8() -> None:
    rows = massive()
    rows[2, 100] = 1e5
    frame = encode(rows, Codec.FLOAT16)
    assert frame[0] == Codec.INT8
    assert len(frame) == HEADER_BYTES + 5 * row_bytes(Codec.INT8, 200, wide=True)
    assert decode(frame, width=200, max_rows=5)[2, 100] == np.float32(1e5)


def test_scales_beyond_float16_travel_as_float32() -> None:
    rows = np.full((1, 40), 1e8, dtype=np.float32)
    frame = encode(rows, Codec.INT8)
    assert frame[0] == Codec.FLOAT32
    np.testing.assert_array_equal(decode(frame, width=40, max_rows=1), rows)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_states_that_are_not_finite_are_refused(codec: Codec, bad: float) -> None:
    rows = massive()
    rows[1, 1] = bad
    with pytest.raises(ActivationError, match="overflowed"):
        encode(rows, codec)


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from(list(Codec)))
def test_hostile_bytes_raise_one_error(data: bytes, codec: Codec) -> None:
    for frame in (data, bytes([codec]) + data, struct.pack("<BBHII", codec, 0, 8, 64, 2) + data):
        try:
            rows = decode(frame, width=64, max_rows=2)
        except ActivationError:
            continue
        assert rows.shape[1] == 64
        assert np.isfinite(rows).all()


@settings(deadline=None)
@given(st.sampled_from(list(Codec)), st.data())
def test_a_damaged_frame_raises_one_error_or_stays_finite(
    codec: Codec, data: st.DataObject
) -> None:
    frame = bytearray(encode(massive(2, 70), codec))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    try:
        rows = decode(bytes(frame[: len(frame) - cut]), width=70, max_rows=2)
    except ActivationError:
        return
    assert rows.shape == (2, 70) or rows.shape[0] < 2
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame[:5], "cut off"),
        (lambda frame: bytes([9]) + frame[1:], "unknown codec"),
        (lambda frame: frame[:1] + b"\x02" + frame[2:], "unknown codec"),
        (lambda frame: frame + b"\0", "wrong length"),
        (lambda frame: frame[:4] + struct.pack("<I", 71) + frame[8:], "does not fit"),
        (lambda frame: frame[:8] + struct.pack("<I", 3) + frame[12:], "does not fit"),
        (lambda frame: frame[:12] + b"\xff\xff" + frame[14:], "does not exist"),
        (lambda frame: frame[:12] + frame[14:16] + frame[14:], "out of order"),
        (lambda frame: frame[:28] + b"\x00\x7c" + frame[30:], "not finite"),
        (lambda frame: frame[:-1] + b"\x80", "no encoder writes"),
    ],
)
def test_each_damage_has_its_sentence(change, words: str) -> None:  # type: ignore[no-untyped-def]
    frame = encode(massive(2, 70), Codec.INT8, num_outliers=8)
    with pytest.raises(ActivationError, match=words):
        decode(change(frame), width=70, max_rows=2)
