"""GGUF files: every block format against the reference implementation, and damaged files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.errors import ModelFileError
from partition.weights.block_formats import TensorType
from partition.weights.gguf import GGUFFile

ROWS, COLUMNS = 6, 512


def random_blocks(tensor_type: TensorType, seed: int) -> np.ndarray:
    """Random bits are valid blocks as long as the half floats in them are finite."""
    rng = np.random.default_rng(seed)
    num_blocks = ROWS * COLUMNS // tensor_type.block_values
    blocks = rng.integers(0, 256, (num_blocks, tensor_type.block_bytes), dtype=np.uint8)
    halves = {TensorType.Q6_K: (208,), TensorType.Q4_0: (0,), TensorType.Q5_0: (0,)}
    halves[TensorType.Q8_0] = (0,)
    for at in halves.get(tensor_type, (0, 2)):
        blocks[:, at : at + 2] = (
            rng.normal(0, 0.1, num_blocks).astype("<f2")[:, None].view(np.uint8)
        )
    return blocks.reshape(ROWS, -1)


def write_file(path: Path, tensors: dict[str, tuple[np.ndarray, TensorType]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "Ġé", "世"])
    writer.add_array("tokenizer.ggml.token_type", [3, 1, 1])
    for name, (data, tensor_type) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(int(tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    tensors = {
        kind.name: (random_blocks(kind, index), kind)
        for index, kind in enumerate(TensorType)
        if kind.is_quantized
    }
    tensors["norm"] = (np.linspace(-1, 1, 64, dtype=np.float32), TensorType.F32)
    write_file(path, tensors)
    return path


@pytest.mark.parametrize("kind", [kind for kind in TensorType if kind.is_quantized])
def test_dequantises_as_the_reference_does(small_file: Path, kind: TensorType) -> None:
    tensor = GGUFFile.open(small_file).tensors[kind.name]
    data = np.asarray(tensor.data).reshape(ROWS, -1)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(int(kind)))
    np.testing.assert_array_equal(tensor.to_float32(), expected)


@pytest.mark.parametrize("kind", [kind for kind in TensorType if kind.is_quantized])
def test_codes_keep_to_the_range_they_declare(small_file: Path, kind: TensorType) -> None:
    rows = GGUFFile.open(small_file).tensors[kind.name].quantized()
    assert rows.codes.min() >= rows.lowest
    assert rows.codes.max() < rows.lowest + 2**rows.bits


@pytest.mark.parametrize("kind", [TensorType.F32, TensorType.F16, TensorType.BF16])
def test_reads_floats(tmp_path: Path, kind: TensorType) -> None:
    values = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType(int(kind)))
    write_file(tmp_path / "f.gguf", {"w": (raw, kind)})
    tensor = GGUFFile.open(tmp_path / "f.gguf").tensors["w"]
    assert tensor.shape == (4, 32)
    np.testing.assert_allclose(tensor.to_float32(), values, rtol=1e-2)


def test_reads_metadata(small_file: Path) -> None:
    file = GGUFFile.open(small_file)
    assert file.text("general.architecture") == "llama"
    assert file.integer("llama.block_count") == 2
    assert file.number("llama.rope.freq_base") == 10000.0
    assert file.flag("tokenizer.ggml.add_bos_token", False)
    assert file.texts("tokenizer.ggml.tokens") == ("<s>", "Ġé", "世")
    assert list(file.array("tokenizer.ggml.token_type")) == [3, 1, 1]
    assert file.integer("absent", 7) == 7
    with pytest.raises(ModelFileError, match="absent"):
        file.text("absent")
    with pytest.raises(ModelFileError, match="block_count"):
        file.text("llama.block_count")


def test_a_cut_file_is_refused_wherever_it_was_cut(small_file: Path, tmp_path: Path) -> None:
    whole = small_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 600, 7), len(whole) // 2, len(whole) - 300]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"fetch it again|give the path"):
            GGUFFile.open(cut)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 1200), value=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_error(
    small_file: Path, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    content = bytearray(small_file.read_bytes())
    content[position] = value
    path = tmp_path_factory.mktemp("changed") / "changed.gguf"
    path.write_bytes(content)
    try:
        GGUFFile.open(path)
    except ModelFileError as error:
        assert str(error).count("\n") == 0


def test_huge_counts_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16 + b"\0" * 64)
    with pytest.raises(ModelFileError, match="ends too early"):
        GGUFFile.open(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.gguf"):
        GGUFFile.open(tmp_path / "none.gguf")
