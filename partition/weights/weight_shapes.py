"""The shape each weight of a model must have."""

from __future__ import annotations

from partition.weights.spec import ModelSpec
from partition.weights.weight_names import HEAD


def weight_shape(spec: ModelSpec, name: str) -> tuple[int, ...]:
    """The shape that a weight of our name must have."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    parts = name.split(".")
    module, kind = parts[-2], parts[-1]
    if module in ("embed_tokens", HEAD.partition(".")[0]):
        return spec.vocab_size, hidden
    if module in ("q_norm", "k_norm"):
        return (spec.head_dim,)
    if module.endswith("norm"):
        return (hidden,)
    shape = {
        "q_proj": (spec.query_size, hidden),
        "k_proj": (spec.kv_size, hidden),
        "v_proj": (spec.kv_size, hidden),
        "o_proj": (hidden, spec.query_size),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }[module]
    return shape[:1] if kind == "bias" else shape
