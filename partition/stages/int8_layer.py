"""One layer in 8-bit integers: outlier channels moved into the weights, then rounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from partition.stages.graph import Point
from partition.stages.layer_inputs import SeenLayer
from partition.stages.layer_weights import FloatMatrix, Floats, LayerWeights, Matrix
from partition.stages.rounding import inverse_roots, round_matrix
from partition.stages.smoothing import smoothing_factors

# Where activations have 16 bits the weights are spared, elsewhere both have 8.
_EXPONENTS: Final = {Point.ATTENTION: 0.5, Point.FEED_FORWARD: 0.6}


def int8_layer(seen: SeenLayer) -> LayerWeights:
    """Smooth and round the matrices of a layer; its float32 weights are of no further use."""
    weights, inputs = seen.weights, seen.inputs
    qkv, gate, up = (_values(one) for one in (weights.qkv, weights.gate, weights.up))
    attention = inputs[Point.ATTENTION]
    factors = smoothing_factors(attention, qkv, _EXPONENTS[Point.ATTENTION])
    roots = inverse_roots(attention / factors)
    mlp = inputs[Point.FEED_FORWARD]
    mlp_factors = smoothing_factors(
        mlp, np.concatenate((gate, up), axis=1), _EXPONENTS[Point.FEED_FORWARD]
    )
    mlp_roots = inverse_roots(mlp / mlp_factors)
    output, down = _values(weights.output), _values(weights.down)
    return replace(
        weights,
        input_norm=weights.input_norm / factors,
        qkv=round_matrix(qkv * factors[:, None], roots),
        output=round_matrix(output, inverse_roots(inputs[Point.OUTPUT])),
        mlp_norm=weights.mlp_norm / mlp_factors,
        gate=round_matrix(gate * mlp_factors[:, None], mlp_roots),
        up=round_matrix(up * mlp_factors[:, None], mlp_roots),
        down=round_matrix(down, inverse_roots(inputs[Point.PRODUCT])),
    )


def _values(matrix: Matrix) -> Floats:
    if not isinstance(matrix, FloatMatrix):
        raise TypeError("a layer is rounded once")
    return matrix.values
