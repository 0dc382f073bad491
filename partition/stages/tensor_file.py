"""One file with the large constants of a graph, laid out so that ONNX Runtime can map it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

_ALIGNMENT_BYTES = 65_536  # ONNX Runtime maps external data at this granularity (64 KiB on Windows)


class TensorFileWriter:
    """Appends tensors to a file; each becomes an initializer that refers to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def add(self, name: str, value: npt.NDArray[Any]) -> onnx.TensorProto:
        """Append one tensor."""
        offset = -(-self._stream.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._stream.seek(offset)
        contiguous = np.ascontiguousarray(value)
        self._stream.write(contiguous.data)
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self._path.name, "offset": offset, "length": contiguous.nbytes}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        return tensor
