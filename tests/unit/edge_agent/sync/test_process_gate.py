"""The gate with a real, tiny model in a real child process."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_agent.sync.golden_run import RunSettings, answer_prompts
from edge_agent.sync.process_gate import ProcessGate
from partition.release.golden import Golden, GoldenAnswer, GoldenPrompt
from partition.release.manifest import GateLimits, Manifest, ReleaseKind
from tests.adapters import make_adapter, shapes_of
from tests.tiny_models import make_folder

TASK = """
name = "cxr"
kind = "classify"
labels = ["normal", "abnormal"]
[prompt]
template = "{text}"
"""
PROMPTS = tuple(GoldenPrompt(id=str(n), task="cxr", text=f"lungs clear {n}") for n in range(3))
MANIFEST = Manifest(
    release="cxr-1",
    release_counter=1,
    kind=ReleaseKind.FULL,
    base_release=None,
    min_runtime="0.1.0",
    fingerprint="f",
    files=(),
    deltas=(),
    golden=None,
    gate=GateLimits(),
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    make_folder(folder / "model")
    config = AutoConfig.from_pretrained(folder / "model")
    config.hidden_size, config.head_dim = 64, 16  # what the runtime's attention takes
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "cxr.toml").write_text(TASK)
    settings = RunSettings(
        model=folder / "model",
        threads=1,
        context_tokens=128,
        max_memory_mb=4096,
        cache=folder / "cache",
    )
    answers = answer_prompts(folder, PROMPTS, settings)
    (folder / "golden.json").write_bytes(Golden(prompts=PROMPTS, answers=answers).to_bytes())
    return folder, answers


def gate(folder, **changes):
    options = {
        "factory_model": folder / "none",
        "threads": 1,
        "context_tokens": 128,
        "max_memory_mb": 4096,
    }
    return ProcessGate(**{"cache": folder / "cache", **options, **changes})


def test_release_that_answers_as_published_passes(release):
    folder, _ = release
    verdict = gate(folder).check(folder, MANIFEST, 0.0)
    assert (verdict.passed, verdict.reason) == (True, "")
    assert verdict.max_abs_logprob < 1e-3
    assert verdict.p95_ms > 0


def test_release_that_answers_otherwise_is_slow_or_large_fails(release):
    folder, answers = release
    good = (folder / "golden.json").read_bytes()
    turned = tuple(
        GoldenAnswer(id=a.id, text=a.text, scores={k: v - 1 for k, v in a.scores.items()}, ms=0)
        for a in answers
    )
    try:
        (folder / "golden.json").write_bytes(Golden(prompts=PROMPTS, answers=turned).to_bytes())
        verdict = gate(folder).check(folder, MANIFEST, 0.001)
    finally:
        (folder / "golden.json").write_bytes(good)
    assert not verdict.passed
    for word in ("nats", "latency"):
        assert word in verdict.reason


def test_adapter_release_is_judged_with_its_adapter(release, tmp_path):
    folder, _ = release
    adapted = shutil.copytree(folder, tmp_path / "adapted", ignore=lambda *_: {"cache"})
    module = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    make_adapter(adapted / "adapter", shapes_of(module), seed=3)
    verdict = gate(adapted, cache=folder / "cache").check(adapted, MANIFEST, 0.0)
    assert "nats from the publisher's" in verdict.reason  # golden outputs of the model without it
    settings = RunSettings(
        model=folder / "model",
        base=folder,
        threads=1,
        context_tokens=128,
        max_memory_mb=4096,
        cache=folder / "cache",
    )
    answers = answer_prompts(adapted, PROMPTS, settings)
    (adapted / "golden.json").write_bytes(Golden(prompts=PROMPTS, answers=answers).to_bytes())
    assert gate(adapted, cache=folder / "cache").check(adapted, MANIFEST, 0.0).passed
    (adapted / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    assert not gate(adapted, cache=folder / "cache").check(adapted, MANIFEST, 0.0).passed


def test_release_that_needs_too_much_memory_fails(release):
    folder, _ = release
    assert not gate(folder, max_memory_mb=1).check(folder, MANIFEST, 0.0).passed


def test_model_that_cannot_be_loaded_fails_and_takes_nobody_along(release, tmp_path):
    folder, _ = release
    broken = tmp_path / "release"
    (broken / "model").mkdir(parents=True)
    (broken / "golden.json").write_bytes((folder / "golden.json").read_bytes())
    verdict = gate(broken).check(broken, MANIFEST, 0.0)
    assert not verdict.passed
    assert "exit code" in verdict.reason


def test_release_that_hangs_fails(release):
    folder, _ = release
    verdict = gate(folder, timeout_s=0.01).check(folder, MANIFEST, 0.0)
    assert "within" in verdict.reason


def test_release_without_golden_prompts_passes(tmp_path):
    assert gate(tmp_path).check(tmp_path, MANIFEST, 0.0).passed
