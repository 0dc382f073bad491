"""The weights of one layer and of the head as a graph takes them: matrices of one kind or another, norms, biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partition.weights.weight_names import EMBEDDING, FINAL_NORM, HEAD, layer_weight
from partition.weights.weight_source import WeightSource

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FloatMatrix:
    """Multiplied in float32."""

    values: Floats  # (inputs, outputs)


@dataclass(frozen=True, slots=True, eq=False)
class Int8Matrix:
    """``value[i, o] = scales[o] * codes[i, o]``; activations become 8-bit integers too, with one scale a position."""

    codes: npt.NDArray[np.int8]  # (inputs, outputs)
    scales: Floats  # (outputs,)
    rotation: int = (
        1  # channels of activations that are rotated together before (rotation.py); 1: none
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BlockMatrix:
    """``value[o, i] = scales[o, i // block] * (code[o, i] - 2**(bits - 1)) + offsets[o, i // block]``, as MatMulNBits packs it."""

    packed: npt.NDArray[np.uint8]  # (outputs, inputs // block, block * bits // 8)
    scales: Floats  # (outputs, inputs // block)
    offsets: Floats | None  # (inputs // block, outputs); None: all zero
    bits: int  # 4 or 8
    block: int


Matrix = FloatMatrix | Int8Matrix


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerWeights:
    """One decoder layer. Norms have the offset of the architecture added already."""

    input_norm: Floats
    qkv: Matrix  # query, key and value side by side
    qkv_bias: Floats | None
    query_norm: Floats | None
    key_norm: Floats | None
    output: Matrix
    output_bias: Floats | None
    post_attention_norm: Floats | None
    mlp_norm: Floats
    gate: Matrix
    up: Matrix
    down: Matrix
    post_mlp_norm: Floats | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadWeights:
    """The last norm and the matrix to the vocabulary."""

    norm: Floats
    matrix: FloatMatrix | BlockMatrix


def float_layer(source: WeightSource, layer: int) -> LayerWeights:
    """Read one layer as float32.

    Raises:
        ModelFileError: A weight is missing or of the wrong shape.
    """
    spec, names = source.spec, frozenset(source.names())

    def norm(name: str) -> Floats:
        return source.float32(layer_weight(layer, name)) + np.float32(spec.norm_offset)

    def matrix(*modules: str) -> FloatMatrix:
        parts = [source.float32(layer_weight(layer, f"{module}.weight")) for module in modules]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return FloatMatrix(np.ascontiguousarray(joined.T))

    def bias(modules: Sequence[str]) -> Floats | None:
        biases = [layer_weight(layer, f"{module}.bias") for module in modules]
        if biases[0] not in names:
            return None
        return np.concatenate([source.float32(name) for name in biases])

    projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    before_mlp = "pre_feedforward" if spec.post_norms else "post_attention"
    return LayerWeights(
        input_norm=norm("input_layernorm.weight"),
        qkv=matrix(*projections),
        qkv_bias=bias(projections),
        query_norm=norm("self_attn.q_norm.weight") if spec.qk_norm else None,
        key_norm=norm("self_attn.k_norm.weight") if spec.qk_norm else None,
        output=matrix("self_attn.o_proj"),
        output_bias=bias(["self_attn.o_proj"]),
        post_attention_norm=norm("post_attention_layernorm.weight") if spec.post_norms else None,
        mlp_norm=norm(f"{before_mlp}_layernorm.weight"),
        gate=matrix("mlp.gate_proj"),
        up=matrix("mlp.up_proj"),
        down=matrix("mlp.down_proj"),
        post_mlp_norm=norm("post_feedforward_layernorm.weight") if spec.post_norms else None,
    )


def head_name(source: WeightSource) -> str:
    """Name of the matrix to the vocabulary: its own, or the embedding's where the two are tied."""
    return EMBEDDING if source.spec.tied_head else HEAD


def final_norm(source: WeightSource) -> Floats:
    """The norm before the head.

    Raises:
        ModelFileError: It is missing or of the wrong shape.
    """
    return source.float32(FINAL_NORM) + np.float32(source.spec.norm_offset)


def float_head(source: WeightSource) -> HeadWeights:
    """Read the head as float32; errors as for :func:`float_layer`."""
    matrix = np.ascontiguousarray(source.float32(head_name(source)).T)
    return HeadWeights(norm=final_norm(source), matrix=FloatMatrix(matrix))
