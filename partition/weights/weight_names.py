"""Foreign weight names: GGUF's, and how its tensors differ from those of transformers.

Inside, weights have the names of the transformers modules (``model.layers.0.self_attn.q_proj.weight``). This module alone
knows what GGUF calls them and what its converter did to them (``convert_hf_to_gguf.py`` of llama.cpp):

* llama and mistral: the rows of each query and key head were re-ordered so that the two halves of a rotary pair are
  neighbours. :func:`rotary_row_order` is the way back; it moves whole rows, so quantised rows can be moved as they are.
* gemma: 1 was added to every norm weight. ``norm_shift`` of :func:`gguf_names` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.weights.spec import Architecture, ModelSpec

EMBEDDING: Final = "model.embed_tokens.weight"
FINAL_NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head.weight"

_LAYER_NAMES: Final[Mapping[str, str]] = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignWeight:
    """Where one of our weights is in a GGUF file, and what has to be undone."""

    name: str
    heads_to_reorder: int = 0  # rotary rows of so many heads; 0: none
    norm_shift: float = 0.0  # to be subtracted


def layer_weight(layer: int, name: str) -> str:
    """Our name of a weight of one layer, for example ``layer_weight(0, "mlp.up_proj.weight")``."""
    return f"model.layers.{layer}.{name}"


def gguf_names(spec: ModelSpec) -> dict[str, ForeignWeight]:
    """Map every weight of a model, in our names, to its place in a GGUF file; without the head where it is tied."""
    names = {EMBEDDING: ForeignWeight(name="token_embd.weight")}
    names[FINAL_NORM] = ForeignWeight(name="output_norm.weight", norm_shift=spec.norm_offset)
    if not spec.tied_head:
        names[HEAD] = ForeignWeight(name="output.weight")
    reorder = spec.architecture in (Architecture.LLAMA, Architecture.MISTRAL)
    heads = {"self_attn.q_proj": spec.num_heads, "self_attn.k_proj": spec.num_kv_heads}
    for layer in range(spec.num_layers):
        for ours, theirs in _layer_names(spec).items():
            module = ours.rpartition(".")[0]
            names[layer_weight(layer, ours)] = ForeignWeight(
                name=f"blk.{layer}.{theirs}",
                heads_to_reorder=heads.get(module, 0) if reorder else 0,
                norm_shift=spec.norm_offset if module.endswith("norm") else 0.0,
            )
    return names


def rotary_row_order(num_heads: int, num_rows: int) -> npt.NDArray[np.intp]:
    """Row indices that turn a query or key matrix of a llama GGUF into that of transformers: ``ours = theirs[order]``."""
    order = np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2)
    return order.swapaxes(1, 2).reshape(-1)


def _layer_names(spec: ModelSpec) -> dict[str, str]:
    names = dict(_LAYER_NAMES)
    if spec.attention_bias:
        for letter in "qkv":
            names[f"self_attn.{letter}_proj.bias"] = f"attn_{letter}.bias"
    if spec.output_bias:
        names["self_attn.o_proj.bias"] = "attn_output.bias"
    if spec.qk_norm:
        names["self_attn.q_norm.weight"] = "attn_q_norm.weight"
        names["self_attn.k_norm.weight"] = "attn_k_norm.weight"
    if spec.post_norms:
        names["post_attention_layernorm.weight"] = "post_attention_norm.weight"
        names["pre_feedforward_layernorm.weight"] = "ffn_norm.weight"
        names["post_feedforward_layernorm.weight"] = "post_ffw_norm.weight"
    else:
        names["post_attention_layernorm.weight"] = "ffn_norm.weight"
    return names
