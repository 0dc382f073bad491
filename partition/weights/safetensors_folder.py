"""The weights in a folder as the Hugging Face hub has them: ``config.json`` and safetensors files, which stay mapped."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from partition.errors import ModelFileError
from partition.weights.block_formats import QuantizedRows, TensorType, to_float32
from partition.weights.spec import ModelSpec
from partition.weights.weight_names import gguf_names
from partition.weights.weight_shapes import weight_shape

_FLOATS: Final = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library
# The text part of a multimodal model has its names behind one of these.
_PREFIXES: Final = ("", "language_model.", "model.language_model.")
_OUR_ROOT: Final = "model."


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    type: TensorType
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


class SafetensorsFolder:
    """See :class:`partition.weights.weight_source.WeightSource`. Immutable, so safe to share between threads."""

    def __init__(self, path: Path, spec: ModelSpec, tensors: dict[str, _Tensor]) -> None:
        self.path = path
        self.paths: tuple[Path, ...] = (path,)
        self.spec = spec
        self._tensors = tensors
        self._names = tuple(gguf_names(spec))

    @classmethod
    def open(cls, path: Path) -> SafetensorsFolder:
        """Map the files of a folder.

        Raises:
            ModelFileError: A file is missing, damaged or truncated, or the architecture is not one we build.
        """
        spec = ModelSpec.from_folder(path)
        tensors: dict[str, _Tensor] = {}
        for member in sorted(path.glob("*.safetensors")):
            tensors |= _read(member)
        return cls(path, spec, _with_our_names(path, tensors))

    def names(self) -> tuple[str, ...]:
        """See :class:`partition.weights.weight_source.WeightSource`."""
        return self._names

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """See :class:`partition.weights.weight_source.WeightSource`."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self.path}: weight {name!r} is missing; fetch the model again")
        expected = weight_shape(self.spec, name)
        if tensor.shape != expected:
            raise ModelFileError(
                f"{self.path}: weight {name!r} has shape {tensor.shape}, not {expected}; fetch the model again"
            )
        rows, columns = math.prod(expected[:-1]), expected[-1]
        return to_float32(tensor.data, tensor.type, rows=rows, columns=columns).reshape(expected)

    def quantized(self, name: str) -> QuantizedRows | None:
        """None: safetensors files hold floats."""
        return None


def read_floats(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read every tensor of one file as float32; for files of adapters, not of models.

    Raises:
        ModelFileError: It is damaged, or holds something else than floats.
    """
    return {
        name: to_float32(
            tensor.data,
            tensor.type,
            rows=math.prod(tensor.shape[:-1]),
            columns=tensor.shape[-1],
        ).reshape(tensor.shape)
        for name, tensor in _read(path).items()
    }


Size = Annotated[int, Field(ge=0, le=1 << 48)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    dtype: Literal["F32", "F16", "BF16"]
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=4)]
    data_offsets: tuple[Size, Size]


_HEADER: Final = TypeAdapter(dict[str, _Entry], config=ConfigDict(hide_input_in_errors=True))


def _read(path: Path) -> dict[str, _Tensor]:
    damaged = f"{path}: no sound safetensors file of float weights; fetch it again"
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError) as error:
        raise ModelFileError(damaged) from error
    length = int.from_bytes(data[:8].tobytes(), "little")
    start = 8 + length
    if len(data) < 8 or length > _MAX_HEADER_BYTES or start > len(data):
        raise ModelFileError(damaged)
    try:
        document = json.loads(data[8:start].tobytes())
        if isinstance(document, dict):
            document.pop("__metadata__", None)
        entries = _HEADER.validate_python(document)
    except (ValueError, RecursionError, ValidationError) as error:
        raise ModelFileError(damaged) from error
    tensors = {}
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        kind = _FLOATS[entry.dtype]
        if end > len(data) - start or end - begin != math.prod(entry.shape) * kind.block_bytes:
            raise ModelFileError(damaged)
        tensors[name] = _Tensor(kind, entry.shape, data[start + begin : start + end])
    return tensors


def _with_our_names(path: Path, tensors: dict[str, _Tensor]) -> dict[str, _Tensor]:
    for prefix in _PREFIXES:
        for root in (_OUR_ROOT, ""):
            if f"{prefix}{root}embed_tokens.weight" in tensors:
                found = {}
                for name, tensor in tensors.items():
                    inner = name.removeprefix(prefix)
                    if inner.startswith("lm_head."):
                        found[inner] = tensor
                    elif name.startswith(prefix):
                        found[_OUR_ROOT + inner.removeprefix(root)] = tensor
                return found
    raise ModelFileError(f"{path}: it has no token embedding; give the folder of a decoder")
