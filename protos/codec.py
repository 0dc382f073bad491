"""Dense arrays to and from their message; both ends use it."""

from __future__ import annotations

import math
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidRequestError
from protos.inference.v1 import inference_pb2

MAX_DIMENSIONS: Final = 8
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    inference_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    inference_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    inference_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    inference_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    inference_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    inference_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
}
_NUMBERS: Final = {dtype: number for number, dtype in _DTYPES.items()}


def encode_tensor(array: npt.NDArray[Any]) -> inference_pb2.Tensor:
    """Make the message of an array.

    Raises:
        TypeError: Its dtype does not travel.
    """
    dtype = array.dtype.newbyteorder("<")
    number = _NUMBERS.get(dtype)
    if number is None:
        raise TypeError(f"arrays of {array.dtype} do not travel; convert it first")
    data = np.ascontiguousarray(array, dtype=dtype).tobytes()
    return inference_pb2.Tensor(
        dtype=number,  # type: ignore[arg-type]  # the stubs' enum is a class of ints
        shape=array.shape,
        data=data,
        crc32=zlib.crc32(data),
    )


def decode_tensor(message: inference_pb2.Tensor) -> npt.NDArray[Any]:
    """Read the array of a message; read-only, sharing the message's bytes.

    Raises:
        InvalidRequestError: Type, shape, length and checksum do not fit together.
    """
    dtype = _DTYPES.get(message.dtype)
    shape = tuple(message.shape)
    if dtype is None or len(shape) > MAX_DIMENSIONS:
        raise InvalidRequestError("a tensor has an unknown type or too many dimensions")
    if math.prod(shape) * dtype.itemsize != len(message.data):
        raise InvalidRequestError("a tensor's bytes do not fit its shape; send it again")
    if zlib.crc32(message.data) != message.crc32:
        raise InvalidRequestError("a tensor's checksum is wrong; send it again")
    return np.frombuffer(message.data, dtype).reshape(shape)
