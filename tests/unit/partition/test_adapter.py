"""An adapter over its base is the model with the sum written into its weights; anything else is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from edge_agent.flow import Request
from edge_agent.local_model import LocalModel
from partition.errors import ModelFileError
from partition.task import Message, Role, Task, TaskKind
from partition.weights.adapter import AdaptedWeights
from partition.weights.weight_source import open_weights, source_fingerprint
from tests.adapters import make_adapter, shapes_of
from tests.tiny_models import make_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("base"))
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.head_dim = 64, 16  # what the runtime's attention takes
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    module.save_pretrained(folder)
    return folder, module


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"lora_alpha": 1, "rank": 1}])
def test_adapted_weights_are_base_and_product(base, tmp_path, config):
    folder, module = base
    added = make_adapter(tmp_path / "adapter", shapes_of(module), **config)
    source = open_weights(folder)
    adapted = AdaptedWeights.open(source, tmp_path / "adapter")
    assert adapted.names() == source.names()
    for name in source.names():
        expected = source.float32(name) + added.get(name, np.float32(0))
        np.testing.assert_allclose(adapted.float32(name), expected, rtol=1e-5, atol=1e-6)
        assert adapted.quantized(name) is None


def test_model_with_adapter_answers_as_the_merged_model(base, tmp_path):
    folder, module = base
    added = make_adapter(tmp_path / "adapter", shapes_of(module))
    merged = shutil.copytree(folder, tmp_path / "merged")
    state = load_file(merged / "model.safetensors")
    save_file(
        {name: value + added.get(name, np.float32(0)) for name, value in state.items()},
        merged / "model.safetensors",
    )
    task = Task(name="t", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
    messages = task.render((Message(role=Role.USER, text="lungs clear"),))
    found, fingerprints = [], set()
    for path, adapter in ((folder, tmp_path / "adapter"), (merged, None), (folder, None)):
        model = LocalModel.open(
            path,
            threads=1,
            max_memory_mb=None,
            context_tokens=128,
            cache_dir=tmp_path / "cache",
            adapter=adapter,
        )
        answer = model.answer(messages, task, Request(id="1", task="t"))
        found.append([score.log_probability for score in answer.label_scores])
        fingerprints.add(model.fingerprint)
        model.close()
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert abs(found[0][0] - found[2][0]) > 0.05  # it does change something
    assert len(fingerprints) == 3


def test_another_adapter_is_another_fingerprint(base, tmp_path):
    folder, module = base
    digests = set()
    for seed in (0, 1):
        make_adapter(tmp_path / str(seed), shapes_of(module), seed=seed)
        source = AdaptedWeights.open(open_weights(folder), tmp_path / str(seed))
        digests.add(source_fingerprint(source, tmp_path / "cache"))
        assert source_fingerprint(source) in digests
    assert len(digests | {source_fingerprint(open_weights(folder))}) == 3


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"layer_replication": [[0, 2]]},
        {"fan_in_fan_out": True},
        {"lora_alpha": 0},
        {"r": 5},  # not what the matrices have
    ],
)
def test_kinds_that_are_not_built_are_refused(base, tmp_path, config):
    folder, module = base
    make_adapter(tmp_path, shapes_of(module))
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(document | config))
    with pytest.raises(ModelFileError):
        AdaptedWeights.open(open_weights(folder), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.clear(),
        lambda tensors: tensors.update({"base_model.model.lm_head.bias": np.zeros(1, np.float32)}),
        lambda tensors: tensors.pop(next(iter(tensors))),
        lambda tensors: tensors.update({next(iter(tensors)): np.zeros((4, 7), np.float32)}),
        lambda tensors: next(iter(tensors.values())).fill(np.nan),
    ],
)
def test_matrices_that_do_not_fit_are_refused(base, tmp_path, change):
    folder, module = base
    make_adapter(tmp_path, shapes_of(module))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelFileError):
        AdaptedWeights.open(open_weights(folder), tmp_path)


def test_adapter_of_another_model_is_refused(base, tmp_path):
    folder, _ = base
    make_adapter(tmp_path, {"model.layers.9.self_attn.q_proj": (64, 64)})
    with pytest.raises(ModelFileError, match="does not have"):
        AdaptedWeights.open(open_weights(folder), tmp_path)
    make_adapter(tmp_path, {"model.layers.0.input_layernorm": (64, 64)})
    with pytest.raises(ModelFileError, match="shape"):
        AdaptedWeights.open(open_weights(folder), tmp_path)


def test_damaged_files_are_refused(base, tmp_path):
    folder, module = base
    with pytest.raises(ModelFileError, match="cannot be read"):
        AdaptedWeights.open(open_weights(folder), tmp_path / "none")
    make_adapter(tmp_path, shapes_of(module))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelFileError, match="no sound safetensors"):
        AdaptedWeights.open(open_weights(folder), tmp_path)
