"""Random decoders of four layers, made from a seed: real files, real tokenizer, milliseconds to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT_TOKENS = 4096


def make_folder(
    folder: Path,
    *,
    architecture: str = "llama",
    seed: int = 0,
    can_end: bool = False,
    head_dim: int = 8,
) -> Path:
    """Write a model as the Hugging Face hub has them: llama, qwen2, qwen3, mistral or gemma3_text.

    ONNX Runtime's attention wants heads of 16 values. Unless ``can_end``, greedy answers go on to their limit: control tokens have logit 0, and some other has more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_size = _write_tokenizer(folder)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.5,  # far from uniform answers, so that a wrong one is seen
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if not can_end:
        with torch.no_grad():
            module.lm_head.weight[vocabulary_size - len(SPECIAL_TOKENS) :] = 0
    module.save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path) -> int:
    """One token a byte: a character beyond ASCII takes several, which is what a stream must survive."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    document = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[-1],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(document), encoding="utf-8")
    return int(tokenizer.get_vocab_size())


# Every architecture the edge engine builds, without a tokenizer.
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
