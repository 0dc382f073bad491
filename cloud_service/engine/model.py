"""Brings a model into memory: from the store by name, from a GGUF file, or from a Hugging Face folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from cloud_service.config import ModelConfig
from cloud_service.engine.passing_thread import in_passing
from cloud_service.errors import ModelLoadError
from partition.extend.model_card import ModelCard
from partition.progress_bar import ProgressBar
from partition.store.model_store import ModelStore
from partition.text.tokenizer import Tokenizer
from partition.weights.gguf import GGUFFile
from partition.weights.weight_source import GGUFWeights, file_fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A decoder that is ready to run, with its tokenizer."""

    card: ModelCard
    module: Any  # a transformers causal language model, in evaluation mode
    tokenizer: Tokenizer


def load_model(config: ModelConfig) -> LoadedModel:
    """Find, fetch if necessary, and load.

    Raises:
        ModelLoadError: It is no decoder that transformers knows, or memory is short.
        PartitionError: It cannot be had, or its files are damaged.
    """
    return in_passing(lambda: _load(config))


def _load(config: ModelConfig) -> LoadedModel:
    disable_progress_bar()  # ours is shown where it takes long
    path, name, fingerprint = _find(config)
    tokenizer = _load_tokenizer(path)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    try:
        module = _load_gguf(path, dtype) if path.is_file() else _load_folder(path, dtype)
        module = module.to(device).eval()
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError, ImportError) as error:
        raise ModelLoadError(
            f"{path}: cannot be loaded as a decoder ({type(error).__name__}); "
            "give a GGUF file or a folder with config.json, safetensors and tokenizer.json"
        ) from error
    decoder = module.config.get_text_config()
    card = ModelCard(
        name=name,
        fingerprint=fingerprint,
        tokenizer_sha256=tokenizer.sha256,
        chat_template_sha256=tokenizer.chat.sha256,
        vocabulary_size=decoder.vocab_size,
        num_layers=decoder.num_hidden_layers,
        hidden_size=decoder.hidden_size,
        context_tokens=decoder.max_position_embeddings,
    )
    logger.info("loaded model=%s device=%s dtype=%s", name, device, dtype)
    return LoadedModel(card=card, module=module, tokenizer=tokenizer)


def _find(config: ModelConfig) -> tuple[Path, str, str]:
    path = Path(config.name)
    if path.exists():
        name = path.stem if path.is_file() else path.resolve().name
        return path, name, file_fingerprint(path, config.cache_dir or user_cache_path("tandem"))
    store = ModelStore(config.cache_dir, config.offline, local_dirs=config.local_dirs)
    path = store.get(config.name)
    return path, config.name, store.entry(config.name).sha256


def _device(wanted: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ModelLoadError("no CUDA device is seen; set `model.device` to auto or cpu")
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Elsewhere PyTorch emulates bfloat16, which costs more than it saves.
    capabilities = torch.cpu.get_capabilities()
    is_native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    is_native = is_native or capabilities.get("arm_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if is_native else torch.float32


def _load_gguf(path: Path, dtype: torch.dtype) -> Any:
    weights = GGUFWeights.open(path)
    config = AutoConfig.for_model(**weights.spec.to_hf_config())
    state: dict[str, torch.Tensor] = {}
    total_bytes = sum(tensor.data.size for tensor in weights.file.tensors.values())
    names = weights.names()
    with ProgressBar(f"loading {path.name}", total_bytes) as bar:
        for done, name in enumerate(names, start=1):
            state[name] = torch.from_numpy(weights.float32(name)).to(dtype)
            bar.update(total_bytes * done // len(names))
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype)


def _load_folder(path: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)


def _load_tokenizer(path: Path) -> Tokenizer:
    if path.is_file():
        return Tokenizer.from_gguf(GGUFFile.open(path))
    return Tokenizer.from_folder(path)
