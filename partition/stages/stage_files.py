"""The files of a built stage: made once from the weights, found again by fingerprint, mapped when used."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from filelock import FileLock

from partition.errors import ModelFileError
from partition.stages.block_head import block_head
from partition.stages.embedding import write_embedding
from partition.stages.layer_weights import HeadWeights, LayerWeights, float_head, float_layer
from partition.stages.stage_cache import mark_used, prune_stages
from partition.stages.stage_range import Precision, StageRange
from partition.weights.weight_source import WeightSource, source_fingerprint

logger = logging.getLogger(__name__)

BUILDER_VERSION: Final = 12  # raise it whenever the graph of the same weights changes
# Raise it too where the same weights then answer differently, by more than the order in which numbers are added.
ANSWERS_VERSION: Final = 11
_MAX_CONTEXT_TOKENS: Final = 32_768  # the longest rotary tables that a graph carries


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFiles:
    """A built stage on disk."""

    folder: Path
    fingerprint: str  # of weights, range, precision and builder, hexadecimal
    context_tokens: int  # positions the graph can rotate

    @property
    def graph(self) -> Path:
        """The ONNX graph; it refers to the file of weights beside it."""
        return self.folder / "graph.onnx"

    @property
    def weights_bytes(self) -> int:
        """Size of all weights but the embedding's, of which only the rows in use are loaded."""
        return (self.folder / "weights.bin").stat().st_size


def build_stage_files(
    source: WeightSource, stage: StageRange, *, precision: Precision, cache_dir: Path
) -> StageFiles:
    """Find the files of a stage in the cache, or build them there; two processes do not build the same at once.

    Raises:
        ModelFileError: A weight is missing or wrong, or the cache folder cannot be written.
    """
    context_tokens = min(source.spec.context_tokens, _MAX_CONTEXT_TOKENS)
    try:
        weights_sha256 = source_fingerprint(source, cache_dir)
    except OSError as error:
        raise _unwritable(cache_dir, error) from error
    recipe = {
        "weights": weights_sha256,
        "start": stage.start,
        "end": stage.end,
        "precision": precision,
        "context_tokens": context_tokens,
        "builder": BUILDER_VERSION,
    }
    fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    parent = cache_dir
    files = StageFiles(
        folder=parent / fingerprint, fingerprint=fingerprint, context_tokens=context_tokens
    )
    if files.folder.is_dir():
        mark_used(files.folder)
        return files
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{fingerprint}.lock"):
            if not files.folder.is_dir():
                _build(source, stage, precision, files)
        prune_stages(parent)
    except OSError as error:
        raise _unwritable(cache_dir, error) from error
    return files


def _unwritable(cache_dir: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"{cache_dir}: the stage cannot be written ({error.strerror}); free some space or choose another cache folder"
    )


def _build(
    source: WeightSource,
    stage: StageRange,
    precision: Precision,
    files: StageFiles,
) -> None:
    # onnx takes 0.1 s to import, and a device that has the files needs it never again.
    import onnx

    from partition.stages.graph import build_graph
    from partition.stages.tensor_file import TensorFileWriter

    logger.info("building layers %d to %d as %s", stage.start, stage.end, precision)
    folder = Path(tempfile.mkdtemp(dir=files.folder.parent, prefix="building-"))
    try:
        with TensorFileWriter(folder / "weights.bin") as weights:
            model = build_graph(
                source.spec,
                stage,
                _layers(source, stage, precision),
                head=_head(source, precision) if stage.has_head else None,
                context_tokens=files.context_tokens,
                weights=weights,
            )
        onnx.save_model(model, folder / "graph.onnx")
        if stage.has_embedding:
            write_embedding(source, folder)
        folder.rename(files.folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _layers(
    source: WeightSource, stage: StageRange, precision: Precision
) -> Iterator[LayerWeights]:
    if precision is Precision.FLOAT32:
        return (float_layer(source, layer) for layer in range(stage.start, stage.end))
    from partition.stages.int8_layer import int8_layer
    from partition.stages.layer_inputs import seen_layers

    # Layers before the stage are run too: what its own are rounded by has to be the same as in the whole model.
    seen = seen_layers(source, stage.end)
    return (int8_layer(source.spec, layer) for layer in islice(seen, stage.start, None))


def _head(source: WeightSource, precision: Precision) -> HeadWeights:
    return float_head(source) if precision is Precision.FLOAT32 else block_head(source)
