"""Tensors travel unchanged, and damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.codec import decode_tensor, encode_tensor
from protos.errors import InvalidRequestError
from protos.inference.v1 import inference_pb2

DTYPES = st.sampled_from(["<f4", "<f2", "<i4", "i1", "u1", "<i8", ">f4"])


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_decode_is_the_inverse_of_encode(array: np.ndarray) -> None:
    decoded = decode_tensor(encode_tensor(array))
    assert decoded.shape == array.shape
    np.testing.assert_array_equal(decoded, array)


def test_a_foreign_type_does_not_travel() -> None:
    with pytest.raises(TypeError):
        encode_tensor(np.array(["text"]))


@pytest.mark.parametrize(
    "damage",
    [{"crc32": 1}, {"data": b"123"}, {"dtype": 99}, {"shape": [2**31, 2**31]}, {"shape": [1] * 9}],
)
def test_damage_is_refused(damage: dict[str, object]) -> None:
    message = encode_tensor(np.ones(4, np.float32))
    for name, value in damage.items():
        message.ClearField(name)
        message.MergeFrom(inference_pb2.Tensor(**{name: value}))
    with pytest.raises(InvalidRequestError):
        decode_tensor(message)
