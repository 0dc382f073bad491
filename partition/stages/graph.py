"""The ONNX graph of layers ``[start, end)`` of a decoder, with or without its head.

Inputs of every graph (``b`` sequences, ``s`` new positions each, ``c`` positions of cache capacity):

    hidden         (b, s, hidden_size) float32   embedded tokens, or what the stage before put out
    last_position  (b,) int32                    index of the last position of each sequence, this call included
    total_length   () int32                      the largest last_position + 1
    rows           (r,) int64                    only with a head: positions of interest, indices into b * s
    key.N value.N  (b, kv_heads, c, head_dim) float32   caches of layer N, written in place

Outputs: ``present_key.N present_value.N`` (bind them to the inputs' buffers) and either ``hidden_out`` (b, s, hidden_size) or,
with a head, ``logits`` (r, vocab_size) and ``features`` (r, hidden_size), the residual stream before the last norm.

Only standard and contrib operators that ONNX Runtime has on every CPU: no custom one, nothing x86-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from partition.spec import Activation, ModelSpec
from partition.stages.stage_range import Precision, StageRange
from partition.stages.tensor_file import TensorFileWriter
from partition.weight_names import EMBEDDING, FINAL_NORM, HEAD, layer_weight
from partition.weight_source import WeightSource

OPSET = 21
_CONTRIB = "com.microsoft"
_INLINE_BYTES = 1024  # smaller constants stay inside the graph's file


def build_graph(
    source: WeightSource,
    stage: StageRange,
    *,
    precision: Precision,
    context_tokens: int,
    weights: TensorFileWriter,
) -> onnx.ModelProto:
    """Write the weights of a stage to a tensor file and return the graph that refers to it.

    Raises:
        ModelFileError: A weight is missing or of the wrong shape.
    """
    return _StageGraph(source, stage, precision, context_tokens, weights).build()


class _StageGraph:
    def __init__(
        self,
        source: WeightSource,
        stage: StageRange,
        precision: Precision,
        context_tokens: int,
        weights: TensorFileWriter,
    ) -> None:
        self._source = source
        self._spec: ModelSpec = source.spec
        self._stage = stage
        self._precision = precision
        self._context_tokens = context_tokens
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def build(self) -> onnx.ModelProto:
        spec, stage = self._spec, self._stage
        hidden = "hidden"
        for layer in range(stage.start, stage.end):
            hidden = self._layer(layer, hidden)
        outputs = []
        if stage.has_head:
            self._head(hidden)
            outputs.append(_value("logits", ["r", spec.vocab_size]))
            outputs.append(_value("features", ["r", spec.hidden_size]))
        else:
            self._node("Identity", [hidden], ["hidden_out"])
            outputs.append(_value("hidden_out", ["b", "s", spec.hidden_size]))
        inputs = [
            _value("hidden", ["b", "s", spec.hidden_size]),
            _value("last_position", ["b"], TensorProto.INT32),
            _value("total_length", [], TensorProto.INT32),
        ]
        if stage.has_head:
            inputs.append(_value("rows", ["r"], TensorProto.INT64))
        for layer in range(stage.start, stage.end):
            shape = ["b", spec.num_kv_heads, "c", spec.head_dim]
            for kind in ("key", "value"):
                inputs.append(_value(f"{kind}.{layer}", shape))
                outputs.append(_value(f"present_{kind}.{layer}", shape))
        graph = helper.make_graph(
            self._nodes, f"layers_{stage.start}_{stage.end}", inputs, outputs, self._initializers
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _layer(self, layer: int, hidden: str) -> str:
        spec = self._spec
        normed = self._norm(layer_weight(layer, "input_layernorm.weight"), hidden)
        attended = self._attention(layer, normed)
        attended = self._linear([layer_weight(layer, "self_attn.o_proj")], attended)
        if spec.post_norms:
            attended = self._norm(layer_weight(layer, "post_attention_layernorm.weight"), attended)
            before_mlp = "pre_feedforward_layernorm.weight"
        else:
            before_mlp = "post_attention_layernorm.weight"
        hidden = self._node("Add", [hidden, attended])
        normed = self._norm(layer_weight(layer, before_mlp), hidden)
        mixed = self._mlp(layer, normed)
        if spec.post_norms:
            mixed = self._norm(layer_weight(layer, "post_feedforward_layernorm.weight"), mixed)
        return self._node("Add", [hidden, mixed])

    def _attention(self, layer: int, normed: str) -> str:
        spec = self._spec
        names = [layer_weight(layer, f"self_attn.{letter}_proj") for letter in "qkv"]
        packed = self._linear(names, normed)
        cosines, sines = self._rotary(layer)
        query, key, value = packed, "", ""
        if spec.qk_norm:
            sizes = self._constant(
                "qkv_sizes", np.array([spec.query_size, spec.kv_size, spec.kv_size], np.int64)
            )
            query, key, value = self._nodes_of(
                "Split", [packed, sizes], ("query", "key", "value"), axis=-1
            )
            query = self._head_norm(layer, "q_norm", query, spec.num_heads)
            key = self._head_norm(layer, "k_norm", key, spec.num_kv_heads)
        window = spec.sliding_window if spec.is_sliding(layer) else None
        outputs = [self._fresh("attended"), f"present_key.{layer}", f"present_value.{layer}"]
        caches = [f"key.{layer}", f"value.{layer}", "last_position", "total_length"]
        return self._node(
            "GroupQueryAttention",
            [query, key, value, *caches, cosines, sines],
            outputs,
            domain=_CONTRIB,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.attention_scale,
            do_rotary=1,
            local_window_size=-1 if window is None else window,
        )

    def _head_norm(self, layer: int, name: str, packed: str, num_heads: int) -> str:
        spec = self._spec
        split = self._constant(
            f"heads_{num_heads}", np.array([0, 0, num_heads, spec.head_dim], np.int64)
        )
        joined = self._constant("joined", np.array([0, 0, -1], np.int64))
        heads = self._node("Reshape", [packed, split])
        normed = self._norm(layer_weight(layer, f"self_attn.{name}.weight"), heads)
        return self._node("Reshape", [normed, joined])

    def _mlp(self, layer: int, normed: str) -> str:
        names = [layer_weight(layer, f"mlp.{part}_proj") for part in ("gate", "up")]
        packed = self._linear(names, normed)
        gate, up = self._nodes_of("Split", [packed], ("gate", "up"), axis=-1, num_outputs=2)
        if self._spec.activation is Activation.SILU:
            gate = self._node("QuickGelu", [gate], domain=_CONTRIB, alpha=1.0)  # x * sigmoid(x)
        else:
            gate = self._node("Gelu", [gate], approximate="tanh")
        product = self._node("Mul", [gate, up])
        return self._linear([layer_weight(layer, "mlp.down_proj")], product)

    def _head(self, hidden: str) -> None:
        flat = self._constant("flat", np.array([-1, self._spec.hidden_size], np.int64))
        positions = self._node("Reshape", [hidden, flat])
        self._node("Gather", [positions, "rows"], ["features"], axis=0)
        normed = self._norm(FINAL_NORM, "features")
        head = EMBEDDING if self._spec.tied_head else HEAD
        self._linear([head.removesuffix(".weight")], normed, output="logits")

    def _norm(self, name: str, hidden: str) -> str:
        weight = self._source.float32(name) + np.float32(self._spec.norm_offset)
        return self._node(
            "SimplifiedLayerNormalization",
            [hidden, self._constant(name, weight)],
            axis=-1,
            epsilon=self._spec.norm_epsilon,
        )

    def _linear(self, modules: Sequence[str], x: str, output: str | None = None) -> str:
        """Multiply by the transposed weights of one or several modules side by side, and add their biases."""
        known = self._source.names()
        parts = [self._source.float32(f"{module}.weight") for module in modules]
        weight = parts[0] if len(parts) == 1 else np.concatenate(parts)
        del parts
        biased = f"{modules[0]}.bias" in known
        name = "+".join(modules)
        result = output or self._fresh("linear")
        product = self._fresh("product") if biased else result
        if self._precision is Precision.FLOAT32:
            matrix = self._constant(name, np.ascontiguousarray(weight.T))
            self._node("MatMul", [x, matrix], [product])
        else:
            self._int8_product(name, weight, x, product)
        if biased:
            bias = np.concatenate([self._source.float32(f"{module}.bias") for module in modules])
            self._node("Add", [product, self._constant(f"{name}.bias", bias)], [result])
        return result

    def _int8_product(
        self, name: str, weight: npt.NDArray[np.float32], x: str, output: str
    ) -> None:
        # The row's largest magnitude becomes 127, so that one fixed scale serves the quantiser and one scale a row is
        # multiplied back: the massive activations of a first token then spoil no other position.
        scales = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-12)) / np.float32(127)
        codes = np.rint(weight / scales[:, None]).astype(np.int8)
        matrix = self._constant(f"{name}.int8", np.ascontiguousarray(codes.T))
        column_scales = self._constant(f"{name}.scales", scales / np.float32(127))
        last = self._constant("last_axis", np.array([-1], np.int64))
        magnitude = self._node("ReduceMax", [self._node("Abs", [x]), last], keepdims=1)
        tiny = self._constant("tiny", np.array(1e-20, np.float32))
        row_scale = self._node("Max", [magnitude, tiny])
        unit = self._node("Div", [x, row_scale])
        step = self._constant("activation_step", np.array(1 / 127, np.float32))
        zero = self._constant("activation_zero", np.array(128, np.uint8))
        one = self._constant("one", np.array(1, np.float32))
        quantized = self._node("QuantizeLinear", [unit, step, zero])
        product = self._node(
            "MatMulIntegerToFloat",
            [quantized, matrix, one, column_scales, zero],
            domain=_CONTRIB,
        )
        self._node("Mul", [product, row_scale], [output])

    def _rotary(self, layer: int) -> tuple[str, str]:
        frequencies = np.array(self._spec.rotary_frequencies(layer))
        suffix = "local" if self._spec.is_sliding(layer) else "global"
        angles = np.arange(self._context_tokens)[:, None] * frequencies[None, :]
        return (
            self._constant(f"cosines_{suffix}", np.cos(angles).astype(np.float32)),
            self._constant(f"sines_{suffix}", np.sin(angles).astype(np.float32)),
        )

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name in self._known:
            return name
        self._known.add(name)
        if value.nbytes < _INLINE_BYTES:
            self._initializers.append(onnx.numpy_helper.from_array(value, name))
        else:
            self._initializers.append(self._weights.add(name, value))
        return name

    def _fresh(self, hint: str) -> str:
        return f"{hint}_{len(self._nodes)}"

    def _node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        named = list(outputs) or [self._fresh(kind)]
        self._nodes.append(helper.make_node(kind, list(inputs), named, **attributes))
        return named[0]

    def _nodes_of(
        self, kind: str, inputs: Sequence[str], hints: Sequence[str], **attributes: Any
    ) -> list[str]:
        named = [self._fresh(hint) for hint in hints]
        self._node(kind, inputs, named, **attributes)
        return named


def _value(name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
