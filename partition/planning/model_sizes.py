"""How many bytes the parts of a model take, as they lie in memory."""

from __future__ import annotations

from partition.planning.profiler import Sizes
from partition.stages.stage_range import Precision
from partition.weights.spec import ModelSpec


def sizes_of(spec: ModelSpec, precision: Precision) -> Sizes:
    """Bytes of weights and caches; norms and biases are too small to count."""
    bytes_per_weight = 4 if precision is Precision.FLOAT32 else 1
    attention = spec.hidden_size * (2 * spec.query_size + 2 * spec.kv_size)
    layer = attention + 3 * spec.hidden_size * spec.intermediate_size
    head = spec.vocab_size * spec.hidden_size
    return Sizes(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        vocab_size=spec.vocab_size,
        layer_bytes=layer * bytes_per_weight,
        head_bytes=head * bytes_per_weight,
        ends_bytes=head * (bytes_per_weight if spec.tied_head else bytes_per_weight + 4),
        kv_bytes=spec.kv_bytes_per_token(1, 4),
        workspace_bytes=64 << 20,
    )
