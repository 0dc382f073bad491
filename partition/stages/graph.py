"""The ONNX graph of layers ``[start, end)`` of a decoder, with or without its head.

Inputs of every graph (``b`` sequences, ``s`` new positions each, ``c`` positions of cache capacity):

    hidden         (b, s, hidden_size) float32   embedded tokens, or what the stage before put out
    last_position  (b,) int32                    index of the last position of each sequence, this call included
    total_length   () int32                      the largest last_position + 1
    positions      (b, s) int64                  by which keys and queries are rotated
    bias           (1, 1, s, total_length) float32   what attention adds to its scores; zero but for branches
    rows           (r,) int64                    only with a head: positions of interest, indices into b * s
    key.N value.N  (b, kv_heads, c, head_dim) float32   caches of layer N, written in place

Outputs: ``present_key.N present_value.N`` (bind them to the inputs' buffers) and either ``hidden_out`` (b, s, hidden_size) or,
with a head, ``logits`` (r, vocab_size) and ``features`` (r, hidden_size), the residual stream before the last norm.

Only standard and contrib operators that ONNX Runtime has on every CPU: no custom one, nothing x86-only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from partition.stages.graph_writer import CONTRIB, GraphWriter, value
from partition.stages.layer_weights import (
    BlockMatrix,
    HeadWeights,
    LayerWeights,
    Matrix,
)
from partition.stages.products import Operand, ProductWriter
from partition.stages.stage_range import StageRange
from partition.stages.tensor_file import TensorFileWriter
from partition.weights.spec import Activation, ModelSpec
from partition.weights.weight_names import FINAL_NORM, HEAD

Floats = npt.NDArray[np.float32]


class Point(enum.StrEnum):
    """Where activations meet a matrix."""

    ATTENTION = "attention"  # input of query, key and value
    OUTPUT = "output"  # of attention's output projection
    FEED_FORWARD = "feed_forward"  # of gate and up
    PRODUCT = "product"  # of down


# Attention with a sink takes ONNX Runtime's path of whole products, twice as fast here as its tiled one (1.31, 64 positions
# behind 192 of 9 heads of 64: 0.35 ms against 0.50); a sink of exp(-1e30) = 0 changes nothing.
_NO_SINK = -1e30


def build_graph(
    spec: ModelSpec,
    stage: StageRange,
    layers: Iterable[LayerWeights],
    *,
    head: HeadWeights | None,
    context_tokens: int,
    weights: TensorFileWriter | None,
    observe: bool = False,
) -> onnx.ModelProto:
    """Write the weights of a stage to a tensor file and return the graph that refers to it.

    Args:
        spec: The model.
        stage: Which layers.
        layers: Their weights, in order; taken one at a time.
        head: The head, where the stage has it.
        context_tokens: Positions the graph can rotate.
        weights: Takes the constants; None: they stay in the graph.
        observe: Also put out the activations at every :class:`Point`, named after it; of a single layer.
    """
    builder = _StageGraph(spec, stage, context_tokens, GraphWriter(weights), observe)
    return builder.build(iter(layers), head)


class _StageGraph:
    def __init__(
        self,
        spec: ModelSpec,
        stage: StageRange,
        context_tokens: int,
        writer: GraphWriter,
        observe: bool,
    ) -> None:
        self._spec = spec
        self._stage = stage
        self._context_tokens = context_tokens
        self._writer = writer
        self._products = ProductWriter(writer)
        self._observe = observe
        self._observed: list[onnx.ValueInfoProto] = []
        self._rank = 3  # (b, s, width); behind the last attention (rows, width)

    def build(self, layers: Iterator[LayerWeights], head: HeadWeights | None) -> onnx.ModelProto:
        spec, stage = self._spec, self._stage
        hidden = "hidden"
        for layer in range(stage.start, stage.end):
            hidden = self._layer(layer, next(layers), hidden)
        if head is not None:
            self._writer.node("Identity", [hidden], ["features"])
            self._head(head, hidden)
            outputs = [
                value("logits", ["r", spec.vocab_size]),
                value("features", ["r", spec.hidden_size]),
            ]
        else:
            self._writer.node("Identity", [hidden], ["hidden_out"])
            outputs = [value("hidden_out", ["b", "s", spec.hidden_size])]
        inputs = [
            value("hidden", ["b", "s", spec.hidden_size]),
            value("last_position", ["b"], TensorProto.INT32),
            value("total_length", [], TensorProto.INT32),
            value("positions", ["b", "s"], TensorProto.INT64),
            value("bias", [1, 1, "s", "t"]),
        ]
        if head is not None:
            inputs.append(value("rows", ["r"], TensorProto.INT64))
        for layer in range(stage.start, stage.end):
            shape = ["b", spec.num_kv_heads, "c", spec.head_dim]
            for kind in ("key", "value"):
                inputs.append(value(f"{kind}.{layer}", shape))
                outputs.append(value(f"present_{kind}.{layer}", shape))
        name = f"layers_{stage.start}_{stage.end}"
        return self._writer.model(name, inputs, outputs + self._observed)

    def _layer(self, layer: int, weights: LayerWeights, hidden: str) -> str:
        spec, products = self._spec, self._products
        attended = self._attention(layer, weights, hidden)
        if self._stage.has_head and layer == self._stage.end - 1:
            # Behind the last attention no position looks at another: go on with those that are asked for.
            hidden = self._asked_rows(hidden, spec.hidden_size)
            attended = self._asked_rows(attended, spec.query_size)
            self._rank = 2
        x = self._operand(Point.OUTPUT, attended, weights.output)
        product = products.multiply(f"{layer}.output", weights.output, x)
        if weights.post_attention_norm is None and weights.output_bias is None:
            hidden = products.added(hidden, product)
        else:
            attended = products.scaled(product, f"{layer}.output.bias", weights.output_bias)
            if weights.post_attention_norm is not None:
                name = f"{layer}.post_attention_norm"
                attended = self._norm(name, weights.post_attention_norm, attended)
            hidden = self._writer.node("Add", [hidden, attended])
        return self._mlp(layer, weights, hidden)

    def _asked_rows(self, positions: str, width: int) -> str:
        """The rows that are asked for, of ``(b, s, width)`` positions."""
        flat = self._writer.constant(f"flat_{width}", np.array([-1, width], np.int64))
        reshaped = self._writer.node("Reshape", [positions, flat])
        return self._writer.node("Gather", [reshaped, "rows"], axis=0)

    def _attention(self, layer: int, weights: LayerWeights, hidden: str) -> str:
        spec, products, writer = self._spec, self._products, self._writer
        normed = self._norm(f"{layer}.input_norm", weights.input_norm, hidden)
        x = self._operand(Point.ATTENTION, normed, weights.qkv)
        product = products.multiply(f"{layer}.qkv", weights.qkv, x)
        packed = products.scaled(product, f"{layer}.qkv.bias", weights.qkv_bias)
        cosines, sines = self._rotary(layer)
        query, key, values = packed, "", ""
        if weights.query_norm is not None and weights.key_norm is not None:
            sizes = writer.constant(
                "qkv_sizes", np.array([spec.query_size, spec.kv_size, spec.kv_size], np.int64)
            )
            query, key, values = writer.nodes_of(
                "Split", [packed, sizes], ("query", "key", "value"), axis=-1
            )
            query = self._head_norm(f"{layer}.query_norm", weights.query_norm, query)
            key = self._head_norm(f"{layer}.key_norm", weights.key_norm, key)
        window = spec.sliding_window if spec.is_sliding(layer) else None
        sink = writer.constant("no_sink", np.full(spec.num_heads, _NO_SINK, np.float32))
        outputs = [writer.fresh("attended"), f"present_key.{layer}", f"present_value.{layer}"]
        caches = [f"key.{layer}", f"value.{layer}", "last_position", "total_length"]
        return writer.node(
            "GroupQueryAttention",
            [query, key, values, *caches, cosines, sines, "positions", "bias", sink],
            outputs,
            domain=CONTRIB,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.attention_scale,
            do_rotary=1,
            local_window_size=-1 if window is None else window,
        )

    def _head_norm(self, name: str, weight: Floats, packed: str) -> str:
        heads = self._writer.in_blocks(packed, self._spec.head_dim, self._rank)
        return self._writer.joined(self._norm(name, weight, heads), self._rank)

    def _mlp(self, layer: int, weights: LayerWeights, hidden: str) -> str:
        products, writer = self._products, self._writer
        normed = self._norm(f"{layer}.mlp_norm", weights.mlp_norm, hidden)
        x = self._operand(Point.FEED_FORWARD, normed, weights.gate)
        gate = products.scaled(products.multiply(f"{layer}.gate", weights.gate, x))
        if self._spec.activation is Activation.SILU:
            gate = writer.node("QuickGelu", [gate], domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        else:
            gate = writer.node("Gelu", [gate], approximate="tanh")
        up = products.multiply(f"{layer}.up", weights.up, x)
        # The scale of each position of up is left out: the operand of down has one of its own, into which it goes.
        product = writer.node("Mul", [gate, up.values])
        x = self._operand(Point.PRODUCT, product, weights.down, factor=up.scale)
        mixed = products.multiply(f"{layer}.down", weights.down, x)
        if weights.post_mlp_norm is None:
            return products.added(hidden, mixed)
        normed = self._norm(f"{layer}.post_mlp_norm", weights.post_mlp_norm, products.scaled(mixed))
        return writer.node("Add", [hidden, normed])

    def _head(self, head: HeadWeights, hidden: str) -> None:
        normed = self._norm(FINAL_NORM, head.norm, hidden)
        name = HEAD.removesuffix(".weight")
        if isinstance(head.matrix, BlockMatrix):
            self._products.block_product(name, head.matrix, normed, output="logits")
            return
        matrix = self._writer.constant(name, head.matrix.values)
        self._writer.node("MatMul", [normed, matrix], ["logits"])

    def _operand(self, point: Point, x: str, matrix: Matrix, *, factor: str = "") -> Operand:
        if self._observe:
            self._writer.node("Identity", [x], [point.value])
            self._observed.append(value(point.value, ["b", "s", f"{point.value}_width"]))
        return self._products.operand(x, matrix, rank=self._rank, factor=factor)

    def _norm(self, name: str, weight: Floats, hidden: str) -> str:
        return self._writer.node(
            "SimplifiedLayerNormalization",
            [hidden, self._writer.constant(name, weight)],
            axis=-1,
            epsilon=self._spec.norm_epsilon,
        )

    def _rotary(self, layer: int) -> tuple[str, str]:
        suffix = "local" if self._spec.is_sliding(layer) else "global"
        names = f"cosines_{suffix}", f"sines_{suffix}"
        if not self._writer.knows(names[0]):
            frequencies = np.array(self._spec.rotary_frequencies(layer))
            angles = np.arange(self._context_tokens)[:, None] * frequencies[None, :]
            self._writer.constant(names[0], np.cos(angles).astype(np.float32))
            self._writer.constant(names[1], np.sin(angles).astype(np.float32))
        return names
