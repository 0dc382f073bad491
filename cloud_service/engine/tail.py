"""The later layers of a model as a model of their own: same modules, same weights, nothing copied."""

from __future__ import annotations

import copy
from typing import Any

import torch


class _RunElsewhere(torch.nn.Module):
    """Stands for a layer that the device has run; keeps the others at their places."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if hasattr(layer, "attention_type"):  # read by models whose layers attend in different ways
            self.attention_type = layer.attention_type

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """Pass on."""
        return hidden_states


def tail_of(module: Any, start: int) -> Any:
    """Make the causal language model that runs layers ``[start, n)`` and the head, given ``inputs_embeds``.

    Args:
        module: A transformers causal language model with a list of decoder layers.
        start: The first layer that runs.
    """
    decoder = module.get_decoder()
    layers = list(decoder.layers)
    places = [_RunElsewhere(layer) if at < start else layer for at, layer in enumerate(layers)]
    tail_decoder = _with(decoder, "layers", torch.nn.ModuleList(places))
    for name, child in module.named_children():
        if child is decoder:
            return _with(module, name, tail_decoder)
    raise ValueError("the model's decoder is not one of its own parts; it cannot be divided")


def _with(module: Any, name: str, child: torch.nn.Module) -> Any:
    # copy.copy shares the table of children, so the copy gets one of its own first.
    changed = copy.copy(module)
    changed.__dict__["_modules"] = {**module._modules, name: child}
    return changed
