"""Token embeddings as the weights file has them: mapped integers with scales, made float for the rows that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.weights.weight_names import EMBEDDING
from partition.weights.weight_source import WeightSource


def write_embedding(source: WeightSource, folder: Path) -> None:
    """Write the embedding of a model into a folder, lossless, for :class:`TokenEmbedding`."""
    rows = source.quantized(EMBEDDING)
    if rows is None:
        np.save(folder / "embedding.npy", source.float32(EMBEDDING))
        return
    np.save(folder / "embedding.npy", rows.codes)
    np.save(folder / "embedding_scales.npy", rows.scales)
    if rows.offsets is not None:
        np.save(folder / "embedding_offsets.npy", rows.offsets)


class TokenEmbedding:
    """Looks up rows; the tables stay mapped, so that only rows in use take memory. Thread-safe."""

    def __init__(self, folder: Path, *, factor: float) -> None:
        """Map the files that :func:`write_embedding` wrote.

        Args:
            folder: Where they are.
            factor: What every value is multiplied by; ``embedding_scale`` of the specification.

        Raises:
            ModelFileError: They are missing or damaged.
        """
        self._factor = np.float32(factor)
        try:
            self._codes: npt.NDArray[np.int8 | np.float32] = _load(folder / "embedding.npy")
            self._scales: npt.NDArray[np.float32] | None = None
            self._offsets: npt.NDArray[np.float32] | None = None
            if self._codes.dtype == np.int8:
                self._scales = _load(folder / "embedding_scales.npy")
                if (folder / "embedding_offsets.npy").exists():
                    self._offsets = _load(folder / "embedding_offsets.npy")
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{folder}: the embedding cannot be read ({type(error).__name__}); delete the folder, it will be built again"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of rows."""
        return int(self._codes.shape[0])

    def look_up(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Rows of the given ids, ``(len(ids), hidden_size) float32``; the ids must be in range."""
        values = self._codes[ids].astype(np.float32)
        if self._scales is not None:
            scales = self._scales[ids]
            grouped = values.reshape(len(ids), scales.shape[1], -1)
            grouped *= scales[:, :, None]
            if self._offsets is not None:
                grouped += self._offsets[ids][:, :, None]
        if self._factor != 1:
            values *= self._factor
        return values


def _load(path: Path) -> npt.NDArray[np.float32]:
    loaded: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded
