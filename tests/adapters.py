"""Low-rank adapters as PEFT saves them, made from a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def make_adapter(folder: Path, shapes: dict[str, tuple[int, int]], *, rank=4, seed=0, **config):
    """Adapt the matrices of these names (without ``.weight``) and shapes (outputs, inputs); returns what is added."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", **config}
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    tensors, added = {}, {}
    for name, (outputs, inputs) in shapes.items():
        down = random.normal(size=(rank, inputs)).astype(np.float32) * 0.2
        up = random.normal(size=(outputs, rank)).astype(np.float32) * 0.2
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
        added[f"{name}.weight"] = scale * (up @ down)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return added


def shapes_of(module, layers=range(4)):
    """Return the adapted matrices of a transformers model."""
    names = [f"model.layers.{layer}.{name}" for layer in layers for name in MODULES]
    return {name: tuple(module.get_submodule(name).weight.shape) for name in names}
