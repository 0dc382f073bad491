"""Token embeddings as the weights file has them: integers with scales on disk, made float for the rows that are asked for.

Rows are read, not mapped: a fault on a mapped file brings 64 KiB into the process, and a few hundred tokens would bring all of it.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.weights.weight_names import EMBEDDING
from partition.weights.weight_source import WeightSource

_FILE = "embedding.npy"
_CHUNK_ROWS = 8192  # written at once


def write_embedding(source: WeightSource, folder: Path) -> None:
    """Write the embedding of a model into a folder, lossless, for :class:`TokenEmbedding`; all of a row lies together."""
    quantized = source.quantized(EMBEDDING)
    columns: dict[str, npt.NDArray[Any]]
    if quantized is None:
        columns = {"values": source.float32(EMBEDDING)}
    else:
        columns = {"values": quantized.codes, "scales": quantized.scales}
        if quantized.offsets is not None:
            columns["offsets"] = quantized.offsets
    fields = [(name, column.dtype.str, column.shape[1:]) for name, column in columns.items()]
    number = len(columns["values"])
    with (folder / _FILE).open("wb") as stream:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(fields)),
            "fortran_order": False,
            "shape": (number,),
        }
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, number, _CHUNK_ROWS):
            end = min(start + _CHUNK_ROWS, number)
            rows = np.empty(end - start, np.dtype(fields))
            for name, column in columns.items():
                rows[name] = column[start:end]
            stream.write(rows.tobytes())


class TokenEmbedding:
    """Looks up rows; only those in use take memory. Thread-safe."""

    def __init__(self, folder: Path, *, factor: float) -> None:
        """Open the file that :func:`write_embedding` wrote.

        Args:
            folder: Where it is.
            factor: What every value is multiplied by; ``embedding_scale`` of the specification.

        Raises:
            ModelFileError: It is missing or damaged.
        """
        self._factor = np.float32(factor)
        self._lock = threading.Lock()  # where a file cannot be read at a place without moving in it
        path = folder / _FILE
        try:
            with path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                shape, _, self._row = np.lib.format.read_array_header_1_0(stream)
                self._start = stream.tell()
            self.vocab_size = int(shape[0])
            whole = path.stat().st_size == self._start + self.vocab_size * self._row.itemsize
            if self._row.fields is None or not whole:
                raise ValueError("not what was written")
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{folder}: the embedding cannot be read ({type(error).__name__}); delete the folder, it will be built again"
            ) from error
        self._close = weakref.finalize(self, os.close, self._file)

    def look_up(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Rows of the given ids, ``(len(ids), hidden_size) float32``; the ids must be in range."""
        names = self._row.names or ()
        rows = np.frombuffer(b"".join(map(self._read, ids.tolist())), self._row)
        values = rows["values"].astype(np.float32)
        if "scales" in names:
            scales = rows["scales"]
            grouped = values.reshape(len(ids), scales.shape[1], -1)
            grouped *= scales[:, :, None]
            if "offsets" in names:
                grouped += rows["offsets"][:, :, None]
        if self._factor != 1:
            values *= self._factor
        return values

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._close()

    def _read(self, token: int) -> bytes:
        size = self._row.itemsize
        offset = self._start + token * size
        if hasattr(os, "pread"):
            return os.pread(self._file, size, offset)
        with self._lock:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, size)
