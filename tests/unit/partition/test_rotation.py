"""Laws of the rotation that spreads outliers, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from partition.stages.rotation import block_size, hadamard, rotated, rotated_rows


@pytest.mark.parametrize(("width", "size"), [(576, 64), (1536, 64), (2048, 64), (40, 8), (7, 1)])
def test_blocks_divide_the_width(width: int, size: int) -> None:
    assert block_size(width) == size
    assert block_size(128, 128) == 128


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_matrix_is_its_own_inverse(size: int) -> None:
    matrix = hadamard(size)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-6)


def test_rotated_activations_times_rotated_weights_are_the_product() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 96)).astype(np.float32)
    weight = rng.standard_normal((96, 7)).astype(np.float32)
    np.testing.assert_allclose(
        rotated(x, 32) @ rotated_rows(weight, 32), x @ weight, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(rotated(rotated(x, 32), 32), x, atol=1e-5)


def test_a_step_that_fits_the_outlier_fits_its_neighbours_too() -> None:
    x = np.random.default_rng(1).standard_normal((50, 128)).astype(np.float32)
    x[:, 3] *= 100

    def error(values: np.ndarray) -> float:
        step = np.abs(values).max(axis=1, keepdims=True) / 127
        return float(np.square(np.rint(values / step) * step - values).sum())

    assert error(rotated(x, 64)) < 0.1 * error(x)
