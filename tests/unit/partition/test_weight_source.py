"""Weights by transformers' names: what a GGUF converter did is undone, and specifications survive the ways there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from partition.errors import ModelFileError
from partition.weights.spec import ModelSpec
from partition.weights.weight_names import gguf_names
from partition.weights.weight_source import GGUFWeights, file_fingerprint, load_state, open_weights
from tests.tiny_models import ARCHITECTURES, tiny_model, write_tiny_model


def converted(values: np.ndarray, heads: int, shift: float) -> np.ndarray:
    """What ``convert_hf_to_gguf.py`` of llama.cpp does to a weight."""
    if heads:
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    return values + np.float32(shift)


def write_gguf(
    model: Any,
    architecture: str,
    path: Path,
    *,
    leave_out: str = "",
    rope_factors: np.ndarray | None = None,
) -> None:
    config, state = model.config, model.state_dict()
    name = "llama" if architecture == "mistral" else architecture
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    reorder = name == "llama"
    for ours, foreign in gguf_names(ModelSpec.from_hf_config(config.to_dict())).items():
        if foreign.name == leave_out:
            continue
        heads = 0
        if reorder and ".q_proj" in ours:
            heads = config.num_attention_heads
        if reorder and ".k_proj" in ours:
            heads = config.num_key_value_heads
        shift = 1.0 if architecture == "gemma3" and "norm" in ours else 0.0
        writer.add_tensor(foreign.name, converted(state[ours].numpy(), heads, shift))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gguf_gives_the_weights_of_transformers_back(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    write_gguf(model, architecture, tmp_path / "m.gguf")
    state = model.state_dict()
    loaded = dict(load_state(GGUFWeights.open(tmp_path / "m.gguf")))
    assert set(state) - set(loaded) <= {"lm_head.weight"}
    for name, values in loaded.items():
        np.testing.assert_allclose(values, state[name].numpy(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_specification_survives_transformers(architecture: str) -> None:
    spec = ModelSpec.from_hf_config(tiny_model(architecture).config.to_dict())
    again = AutoConfig.for_model(**spec.to_hf_config())
    assert ModelSpec.from_hf_config(again.to_dict()) == spec


def test_rotary_factors_of_a_gguf_are_llama3_scaling(tmp_path: Path) -> None:
    model = tiny_model("llama")  # scaled as Llama 3.1 is
    scaled = ModelSpec.from_hf_config(model.config.to_dict())
    plain = replace(scaled, rope_scaling=None).rotary_frequencies(0)
    factors = np.array(plain) / scaled.rotary_frequencies(0)
    assert factors.max() > 1  # or there is nothing to see
    write_gguf(model, "llama", tmp_path / "m.gguf", rope_factors=factors)
    spec = GGUFWeights.open(tmp_path / "m.gguf").spec
    np.testing.assert_allclose(spec.rotary_frequencies(0), scaled.rotary_frequencies(0), rtol=1e-6)


def test_rotary_factors_reach_transformers(tmp_path: Path) -> None:
    model = tiny_model("llama")
    factors = np.linspace(1, 4, model.config.head_dim // 2)
    write_gguf(model, "llama", tmp_path / "m.gguf", rope_factors=factors)
    spec = GGUFWeights.open(tmp_path / "m.gguf").spec
    rotary = LlamaRotaryEmbedding(AutoConfig.for_model(**spec.to_hf_config()))
    assert rotary.attention_scaling == 1
    np.testing.assert_allclose(rotary.inv_freq, spec.rotary_frequencies(0), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.zeros(8), np.ones(3), np.full(8, np.nan)])
def test_senseless_rotary_factors_are_refused(tmp_path: Path, bad: np.ndarray) -> None:
    write_gguf(tiny_model("llama"), "llama", tmp_path / "m.gguf", rope_factors=bad)
    with pytest.raises(ModelFileError, match="make no sense"):
        GGUFWeights.open(tmp_path / "m.gguf")


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_folder_gives_the_same_weights(architecture: str, tmp_path: Path) -> None:
    state = write_tiny_model(architecture, tmp_path).state_dict()
    for name, values in load_state(open_weights(tmp_path)):
        np.testing.assert_array_equal(values, state[name].numpy())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tiny_model("qwen2"), "qwen2", tmp_path / "m.gguf", leave_out="blk.1.ffn_up.weight")
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up\.weight"):
        dict(load_state(GGUFWeights.open(tmp_path / "m.gguf")))


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    write_tiny_model("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="fetch it again"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "bert"),
        ("num_hidden_layers", 0),
        ("hidden_size", "x"),
        ("num_attention_heads", 10**9),
    ],
)
def test_an_impossible_configuration_is_one_sentence(key: str, value: object) -> None:
    config = tiny_model("llama").config.to_dict() | {key: value}
    with pytest.raises(ModelFileError) as caught:
        ModelSpec.from_hf_config(config)
    assert "\n" not in str(caught.value)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    first = file_fingerprint(path, tmp_path / "cache")
    assert file_fingerprint(path, tmp_path / "cache") == first == file_fingerprint(path)
    path.write_bytes(b"other")
    assert file_fingerprint(path, tmp_path / "cache") == file_fingerprint(path) != first
