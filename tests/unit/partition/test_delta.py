"""Deltas: apply(old, diff(old, new)) == new for any content, and damage never passes for a result."""

import hashlib
import json
import struct
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.errors import DeltaError
from partition.release.delta import apply_delta, make_delta, zstd
from partition.release.graded import BFLOAT16_BITS, FLOAT16_BITS, join_grades, split_grades
from partition.weights.tensor_layout import PLAIN, Field, block_bytes, read_regions

DTYPES = {"I8": 1, "U8": 1, "F16": 2, "BF16": 2, "F32": 4}


def safetensors(tensors):
    """Make a file of {name: (dtype, bytes)}."""
    header, at = {}, 0
    for name, (dtype, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": [len(data) // DTYPES[dtype]],
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + b"".join(data for _, data in tensors.values())


def gguf(tensors):
    """Make a GGUF file of {name: (type number, weights, bytes)} with one key."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    head += struct.pack("<Q", 4) + b"name" + struct.pack("<IQ", 8, 3) + b"abc"
    at, body = 0, b""
    for name, (kind, weights, data) in tensors.items():
        head += struct.pack("<Q", len(name)) + name.encode()
        head += struct.pack("<IQIQ", 1, weights, kind, at)
        padded = data + bytes(-len(data) % 32)
        body += padded
        at += len(padded)
    return head + bytes(-len(head) % 32) + body


def round_trip(folder, old, new, suffix=".bin"):
    base, fresh, delta = (folder / f"{name}{suffix}" for name in ("old", "new", "delta"))
    base.write_bytes(old)
    fresh.write_bytes(new)
    size = make_delta(base, fresh, delta)
    made = bytearray()
    digest = apply_delta(base, delta, made.extend)
    assert bytes(made) == new
    assert digest == hashlib.sha256(new).hexdigest()
    assert size.delta_bytes == delta.stat().st_size
    return size


@st.composite
def edited_tensors(draw):
    """Two files with some of their tensors in common, edited here and there, with long gaps or none."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    old, new = {}, {}
    for index in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        data = random.integers(0, 256, DTYPES[dtype] * draw(st.integers(1, 3000)), dtype=np.uint8)
        edited = data.copy()
        edit = draw(st.sampled_from(["none", "few", "many", "all", "resize", "retype", "rename"]))
        if edit in ("few", "many", "all"):
            count = {"few": 2, "many": max(1, len(data) // 10), "all": len(data)}[edit]
            edited[random.integers(0, len(data), count)] += np.uint8(1)
        if edit == "resize":
            edited = np.concatenate([edited, edited[: DTYPES[dtype]]])
        old[f"t{index}"] = (dtype, data.tobytes())
        name = f"n{index}" if edit == "rename" else f"t{index}"
        kind = "U8" if edit == "retype" else dtype
        new[name] = (kind, edited.tobytes())
    return safetensors(old), safetensors(new)


@settings(max_examples=60, deadline=None)
@given(edited_tensors())
def test_delta_law_for_tensors(pair):
    with tempfile.TemporaryDirectory() as folder:
        round_trip(Path(folder), *pair, suffix=".safetensors")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([".bin", ".gguf"]))
def test_delta_law_for_any_bytes(old, new, suffix):
    with tempfile.TemporaryDirectory() as folder:
        round_trip(Path(folder), old, new, suffix)


@pytest.mark.parametrize(
    ("kind", "weights", "size"), [(3, 32, 20), (8, 32, 34), (14, 256, 210), (12, 256, 144)]
)
def test_quantised_blocks_are_taken_apart_and_sparse_changes_stay_small(
    tmp_path, kind, weights, size
):
    random = np.random.default_rng(5)
    blocks = 4000
    data = random.integers(0, 256, blocks * size, dtype=np.uint8)
    edited = data.copy()
    edited[random.integers(0, len(data), len(data) // 200)] += np.uint8(1)  # 0.5 %
    old = gguf({"blk.0.w": (kind, blocks * weights, data.tobytes())})
    new = gguf({"blk.0.w": (kind, blocks * weights, edited.tobytes())})
    result = round_trip(tmp_path, old, new, ".gguf")
    assert dict(result.by_coding).keys() == {"gap", "same"}
    assert result.delta_bytes < 0.013 * len(new)
    region = next(region for region in read_regions(tmp_path / "new.gguf") if region.name)
    assert block_bytes(region.layout) == size


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_floats_are_graded_by_what_they_were(tmp_path, dtype):
    random = np.random.default_rng(2)
    before = random.normal(0, 0.02, 200_000).astype(np.float32)
    after = before + random.choice([-2e-5, 2e-5], len(before)).astype(np.float32)
    if dtype == "F16":
        words = [values.astype(np.float16).view(np.uint16) for values in (before, after)]
    else:
        words = [(values.view(np.uint32) >> 16).astype(np.uint16) for values in (before, after)]
    old, new = (safetensors({"a": (dtype, values.tobytes())}) for values in words)
    result = round_trip(tmp_path, old, new, ".safetensors")
    assert dict(result.by_coding)["graded"] == 400_000
    xor = (words[0] ^ words[1]).view(np.uint8).reshape(-1, 2)
    planes = zstd.compress(np.concatenate([xor[:, 0], xor[:, 1]]).tobytes(), 19)
    assert result.delta_bytes < 0.75 * len(planes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), min_size=1, max_size=200),
    st.sampled_from([FLOAT16_BITS, BFLOAT16_BITS]),
)
def test_graded_law_for_any_pair_of_floats(pairs, bits):
    """Not-a-numbers, infinities and both zeros included."""
    old, new = (np.array(side, np.uint16).view(np.uint8) for side in zip(*pairs, strict=True))
    planes = split_grades(new, old, bits)
    assert join_grades(lambda size: next(planes), old, bits) == new.tobytes()


def test_long_gap_needs_several_bytes(tmp_path):
    old = bytes(3_000_000)
    new = bytearray(old)
    new[2_999_999] = 1
    assert round_trip(tmp_path, old, bytes(new)).delta_bytes < 500


def test_regions_cover_the_file_even_when_its_table_lies(tmp_path):
    header = {
        "a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]},
        "overlaps": {"dtype": "I8", "shape": [4], "data_offsets": [2, 6]},
        "outside": {"dtype": "I8", "shape": [4], "data_offsets": [6, 900]},
    }
    packed = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + b"12345678")
    regions = read_regions(path)
    assert [region.name for region in regions] == ["", "a", ""]
    assert regions[0].start == 0
    assert regions[-1].end == path.stat().st_size
    assert all(one.end == two.start for one, two in pairwise(regions))
    assert regions[1].layout == (Field("sub", 1),)
    assert regions[0].layout == PLAIN


def test_wrong_base_is_refused(tmp_path):
    round_trip(tmp_path, b"a" * 1000, b"a" * 999 + b"b")
    (tmp_path / "old.bin").write_bytes(b"a" * 999 + b"c")
    with pytest.raises(DeltaError, match="another base"):
        apply_delta(tmp_path / "old.bin", tmp_path / "delta.bin", bytearray().extend)


def test_damage_anywhere_is_an_error_or_another_hash(tmp_path):
    random = np.random.default_rng(1)
    data = random.integers(0, 256, 5000, dtype=np.uint8)
    edited = data.copy()
    edited[random.integers(0, 5000, 50)] += np.uint8(1)
    old = safetensors({"a": ("I8", data.tobytes()), "b": ("F16", data.tobytes())})
    new = safetensors({"a": ("I8", edited.tobytes()), "b": ("F16", edited[::-1].tobytes())})
    round_trip(tmp_path, old, new, ".safetensors")
    delta, base = tmp_path / "delta.safetensors", tmp_path / "old.safetensors"
    good, wanted = delta.read_bytes(), hashlib.sha256(new).hexdigest()
    for bit in random.integers(0, len(good) * 8, 400):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << (bit % 8)
        delta.write_bytes(damaged)
        try:
            digest = apply_delta(base, delta, bytearray().extend)
        except DeltaError:
            continue
        made = bytearray()
        assert digest != wanted or (apply_delta(base, delta, made.extend) and made == new)
    for length in (0, 3, 11, 12, 40, len(good) - 1):
        delta.write_bytes(good[:length])
        with pytest.raises(DeltaError):
            apply_delta(base, delta, bytearray().extend)
