"""What the matrices of each layer are multiplied by: a short text is run through the float32 layers, one after the other.

Only one layer is in memory at a time, and a layer's inputs depend on nothing but the weights before it: every stage of a model
sees the same and rounds the same, wherever it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.stages.calibration_text import CONVERSATIONS
from partition.stages.graph import Point, build_graph
from partition.stages.layer_weights import Floats, LayerWeights, float_layer
from partition.stages.stage_range import StageRange
from partition.weights.spec import ModelSpec
from partition.weights.weight_names import EMBEDDING
from partition.weights.weight_source import WeightSource

_RANDOM_TOKENS: Final = 256  # of each text, for a model without a tokenizer
_THREADS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class SeenLayer:
    """One layer in float32, and what its matrices saw."""

    weights: LayerWeights
    inputs: Mapping[Point, Floats]  # (positions, channels)


def seen_layers(source: WeightSource, end: int) -> Iterator[SeenLayer]:
    """Run the calibration text through layers ``[0, end)``; one layer at a time.

    Raises:
        ModelFileError: A weight is missing or of the wrong shape.
    """
    texts = _texts(source)
    table = _EmbeddingRows(source, np.concatenate(texts))
    hidden = [table.look_up(ids) for ids in texts]
    for layer in range(end):
        weights = float_layer(source, layer)
        outputs, inputs = _run(source.spec, layer, weights, hidden)
        hidden = outputs
        yield SeenLayer(weights, inputs)


def _run(
    spec: ModelSpec, layer: int, weights: LayerWeights, hidden: list[Floats]
) -> tuple[list[Floats], dict[Point, Floats]]:
    import onnxruntime

    longest = max(len(one) for one in hidden)
    # One layer more than there are, so that none is the last and has the head.
    stage = StageRange(start=layer, end=layer + 1, num_layers=layer + 2)
    model = build_graph(
        spec, stage, [weights], head=None, context_tokens=longest, weights=None, observe=True
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _THREADS
    # Each layer is run a few times only: arranging its weights first would take longer than it saves.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = ["hidden_out", *Point]
    outputs: list[Floats] = []
    seen: dict[Point, list[Floats]] = {point: [] for point in Point}
    for one in hidden:
        empty = np.zeros((1, spec.num_kv_heads, len(one), spec.head_dim), np.float32)
        found = session.run(
            names,
            {
                "hidden": one[None],
                "last_position": np.array([len(one) - 1], np.int32),
                "total_length": np.array(len(one), np.int32),
                "positions": np.arange(len(one))[None],
                "bias": np.zeros((1, 1, len(one), len(one)), np.float32),
                f"key.{layer}": empty,
                f"value.{layer}": empty,
            },
        )
        outputs.append(found[0][0])
        for point, values in zip(Point, found[1:], strict=True):
            seen[point].append(values[0])
    return outputs, {point: np.concatenate(parts) for point, parts in seen.items()}


class _EmbeddingRows:
    """The rows of the embedding that some ids need."""

    def __init__(self, source: WeightSource, ids: npt.NDArray[np.int32]) -> None:
        self._ids = np.unique(ids)
        rows = source.quantized(EMBEDDING)
        if rows is None:
            values = source.float32(EMBEDDING)[self._ids]
        else:
            values = rows.take(self._ids).to_float32()
        self._values = values * np.float32(source.spec.embedding_scale)

    def look_up(self, ids: npt.NDArray[np.int32]) -> Floats:
        found: Floats = self._values[np.searchsorted(self._ids, ids)]
        return found


def _texts(source: WeightSource) -> list[npt.NDArray[np.int32]]:
    from partition.text.tokenizer import Tokenizer

    spec = source.spec
    try:
        tokenizer = Tokenizer.open(source.path)
        found = [
            tokenizer.encode(tokenizer.chat.render(turns), with_specials=True)
            for turns in CONVERSATIONS
        ]
        texts = [np.array(ids, np.int32) % spec.vocab_size for ids in found]
    except ModelFileError:
        rng = np.random.default_rng(0)
        texts = [
            rng.integers(0, spec.vocab_size, _RANDOM_TOKENS).astype(np.int32) for _ in CONVERSATIONS
        ]
    return [ids[: spec.context_tokens] for ids in texts]
