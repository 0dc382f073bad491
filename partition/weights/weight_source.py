"""The weights of one model by our names, from a GGUF file or a folder of safetensors files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.weights.block_formats import QuantizedRows
from partition.weights.gguf import GGUFFile, GGUFTensor
from partition.weights.safetensors_folder import SafetensorsFolder
from partition.weights.spec import ModelSpec
from partition.weights.weight_names import ForeignWeight, gguf_names, rotary_row_order
from partition.weights.weight_shapes import weight_shape


class WeightSource(Protocol):
    """The weights of one model; names and row order are those of transformers."""

    path: Path
    paths: tuple[Path, ...]  # everything that the weights come from
    spec: ModelSpec

    def names(self) -> tuple[str, ...]:
        """All weights; no head where it is tied to the embedding."""

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """One weight, a new array.

        Raises:
            ModelFileError: It is missing or of the wrong shape.
        """

    def quantized(self, name: str) -> QuantizedRows | None:
        """One matrix as the integers it is stored as; None where it is stored as floats. Errors as above."""


class GGUFWeights:
    """The weights in a GGUF file. Immutable, so safe to share between threads."""

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self.paths: tuple[Path, ...] = (file.path,)
        self.spec = ModelSpec.from_gguf(file)
        self.file = file
        self._names = gguf_names(self.spec)

    @classmethod
    def open(cls, path: Path) -> GGUFWeights:
        """Map a file; see :meth:`GGUFFile.open`."""
        return cls(GGUFFile.open(path))

    def names(self) -> tuple[str, ...]:
        """See :class:`WeightSource`."""
        return tuple(self._names)

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """See :class:`WeightSource`."""
        foreign, tensor = self._find(name)
        values = tensor.to_float32()
        if foreign.heads_to_reorder:
            values = values[rotary_row_order(foreign.heads_to_reorder, len(values))]
        if foreign.norm_shift:
            values -= np.float32(foreign.norm_shift)
        return values

    def quantized(self, name: str) -> QuantizedRows | None:
        """See :class:`WeightSource`."""
        foreign, tensor = self._find(name)
        if not tensor.type.is_quantized:
            return None
        rows = tensor.quantized()
        if not foreign.heads_to_reorder:
            return rows
        order = rotary_row_order(foreign.heads_to_reorder, len(rows.codes))
        return replace(
            rows,
            codes=rows.codes[order],
            scales=rows.scales[order],
            offsets=None if rows.offsets is None else rows.offsets[order],
        )

    def _find(self, name: str) -> tuple[ForeignWeight, GGUFTensor]:
        foreign = self._names[name]
        tensor = self.file.tensors.get(foreign.name)
        if tensor is None:
            raise ModelFileError(f"{self.path}: tensor {foreign.name!r} is missing; fetch it again")
        expected = weight_shape(self.spec, name)
        if tensor.shape != expected:
            raise ModelFileError(
                f"{self.path}: tensor {foreign.name!r} has shape {tensor.shape}, not {expected}; fetch it again"
            )
        return foreign, tensor


def open_weights(path: Path) -> WeightSource:
    """Open a GGUF file, or a folder of safetensors files.

    Raises:
        ModelFileError: It is damaged or of a kind we do not read.
    """
    return SafetensorsFolder.open(path) if path.is_dir() else GGUFWeights.open(path)


def load_state(source: WeightSource) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield every weight as float32 under its transformers name, one at a time; a tied head is left out.

    For ``module.load_state_dict({name: torch.from_numpy(value) for name, value in load_state(source)}, strict=False)``
    followed by ``module.tie_weights()``.
    """
    for name in source.names():
        yield name, source.float32(name)


def file_fingerprint(path: Path, cache_dir: Path | None = None) -> str:
    """SHA-256 of a weights file, or of the names and contents of a folder's model files, as hexadecimal digits.

    Args:
        path: The file or folder.
        cache_dir: Remembers digests by path, size and time of change, so that a start does not read the whole file;
            None: read it.

    Raises:
        ModelFileError: A file cannot be read.
        OSError: The cache folder cannot be written.
    """
    members = [path] if path.is_file() else sorted(path.glob("*"))
    members = [one for one in members if one == path or one.suffix in (".safetensors", ".json")]
    stats = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in members]
    memo = (cache_dir or Path()) / "digests" / hashlib.sha256(repr(stats).encode()).hexdigest()
    if cache_dir is not None and memo.is_file():
        return memo.read_text(encoding="ascii")
    digest = hashlib.sha256()
    for member in members:
        if member != path:
            digest.update(member.name.encode() + b"\0")
        _digest_file(member, digest)
    if cache_dir is None:
        return digest.hexdigest()
    memo.parent.mkdir(parents=True, exist_ok=True)
    written = memo.with_suffix(f".{os.getpid()}")
    written.write_text(digest.hexdigest(), encoding="ascii")
    written.replace(memo)
    return digest.hexdigest()


def source_fingerprint(source: WeightSource, cache_dir: Path | None = None) -> str:
    """SHA-256 of all that the weights come from; of one file or folder, its :func:`file_fingerprint`.

    Raises:
        ModelFileError: A file cannot be read.
        OSError: The cache folder cannot be written.
    """
    digests = [file_fingerprint(path, cache_dir) for path in source.paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\0".join(digests).encode()).hexdigest()


def _digest_file(path: Path, digest: hashlib._Hash) -> None:
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read ({type(error).__name__}); check the path and its permissions"
        ) from error
