"""What a stage makes of weights: blocks repacked without loss, rounding that makes up for its errors, rows of the embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from partition.errors import ModelFileError
from partition.stages.block_head import pack_blocks
from partition.stages.embedding import TokenEmbedding, write_embedding
from partition.stages.rounding import inverse_roots, round_matrix
from partition.weights.block_formats import QuantizedRows
from partition.weights.safetensors_folder import SafetensorsFolder
from partition.weights.weight_names import EMBEDDING
from tests.tiny_models import VOCAB_SIZE, write_tiny_model

# Of GGUF's formats: bits, lowest code, values in a group, whether there is an offset.
FORMATS = [
    pytest.param(4, -8, 32, False, id="Q4_0"),
    pytest.param(4, 0, 32, True, id="Q4_1, Q4_K"),
    pytest.param(5, -16, 32, False, id="Q5_0"),
    pytest.param(5, 0, 32, True, id="Q5_1, Q5_K"),
    pytest.param(6, -32, 16, False, id="Q6_K"),
    pytest.param(8, -128, 32, False, id="Q8_0"),
]


@pytest.mark.parametrize(("bits", "lowest", "group", "has_offsets"), FORMATS)
def test_blocks_keep_every_value(bits: int, lowest: int, group: int, has_offsets: bool) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(lowest, lowest + 2**bits, (7, 64)).astype(np.int8)
    scales, offsets = rng.standard_normal((2, 7, 64 // group)).astype(np.float32)
    rows = QuantizedRows(codes, scales, offsets if has_offsets else None, group, bits, lowest)

    matrix = pack_blocks(rows)

    assert matrix.packed.shape == (7, 64 // group, group * matrix.bits // 8)
    found = matrix.packed.astype(np.int32)
    if matrix.bits == 4:  # the first of two values lies in the lower half
        found = np.stack((found & 15, found >> 4), axis=-1).reshape(7, 64 // group, group)
    values = (found - (1 << (matrix.bits - 1))) * matrix.scales[:, :, None]
    if matrix.offsets is not None:
        values = values + matrix.offsets.T[:, :, None]
    np.testing.assert_allclose(values.reshape(7, 64), rows.to_float32(), rtol=1e-5, atol=1e-5)


def correlated_inputs() -> np.ndarray:
    rng = np.random.default_rng(2)
    mixed = rng.standard_normal((400, 24)) @ rng.standard_normal((24, 96))
    return (mixed + 0.1 * rng.standard_normal((400, 96))).astype(np.float32)


def test_rounding_makes_up_for_its_errors() -> None:
    inputs = correlated_inputs()
    weight = np.random.default_rng(3).standard_normal((96, 40)).astype(np.float32)
    exact = inputs @ weight

    def error(roots: list[np.ndarray] | None) -> float:
        rounded = round_matrix(weight.copy(), roots)
        assert rounded.codes.dtype == np.int8
        assert np.abs(rounded.codes.astype(int)).max() <= 127
        return float(np.square(inputs @ (rounded.codes * rounded.scales) - exact).sum())

    assert error(inverse_roots(inputs)) < 0.5 * error(None)


def test_the_root_is_that_of_the_inverse() -> None:
    inputs = correlated_inputs()
    (root,) = inverse_roots(inputs)
    hessian = inputs.T @ inputs
    hessian += 0.01 * np.diagonal(hessian).mean() * np.eye(len(hessian), dtype=np.float32)
    np.testing.assert_array_equal(root, np.triu(root))
    np.testing.assert_allclose(root.T @ root @ hessian, np.eye(len(hessian)), atol=1e-2)


def test_wide_matrices_are_rounded_in_parts() -> None:
    roots = inverse_roots(np.random.default_rng(4).standard_normal((50, 1600)).astype(np.float32))
    assert sum(len(root) for root in roots) == 1600
    assert len(roots) > 1


def test_rows_of_the_embedding_are_read_back(tmp_path: Path) -> None:
    write_tiny_model("llama", tmp_path / "model")
    source = SafetensorsFolder.open(tmp_path / "model")
    write_embedding(source, tmp_path)
    table = TokenEmbedding(tmp_path, factor=2.0)
    ids = np.array([VOCAB_SIZE - 1, 0, 7, 7], np.int32)
    np.testing.assert_array_equal(table.look_up(ids), 2 * source.float32(EMBEDDING)[ids])
    assert table.vocab_size == VOCAB_SIZE
    table.close()
    table.close()


def test_a_damaged_embedding_is_refused(tmp_path: Path) -> None:
    write_tiny_model("llama", tmp_path / "model")
    write_embedding(SafetensorsFolder.open(tmp_path / "model"), tmp_path)
    path = tmp_path / "embedding.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelFileError, match="built again"):
        TokenEmbedding(tmp_path, factor=1.0)
