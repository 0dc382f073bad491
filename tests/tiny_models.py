"""Tiny random models from a seed, as the folders the hub would have: every architecture we build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
NUM_LAYERS = 4
VOCAB_SIZE = 96

_COMMON: dict[str, Any] = {
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"sliding_window": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "query_pre_attn_scalar": 24,
    },
}


def tiny_model(architecture: str, *, seed: int = 0) -> PreTrainedModel:
    """A random float32 model; norms and biases are random too, so that a forgotten one shows."""
    config = AutoConfig.for_model(**({"model_type": architecture} | _COMMON | _OWN[architecture]))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def write_tiny_model(architecture: str, folder: Path, *, seed: int = 0) -> PreTrainedModel:
    """Make a tiny model and save it; returns it."""
    model = tiny_model(architecture, seed=seed)
    model.save_pretrained(folder)
    return model
