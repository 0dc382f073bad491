"""Where things lie in a release: the publisher puts them there, the agent finds them."""

from __future__ import annotations

from pathlib import Path

GOLDEN = "golden.json"
CANARIES = "canary.json"
TASKS = "tasks"
CERTIFICATES = "certificates"
SCORERS = "scorers"
HEADS = "heads"
GATES = "gates"
ADAPTER = "adapter"  # as PEFT saves it
PROFILE = "profile.json"  # of the device, cloud and link: what plans are made from
_MODELS = ("model.gguf", "model")  # one file, or a folder of safetensors with tokenizer and config


def model_of(folder: Path) -> Path | None:
    """Return the model of a release; None when it has none of its own."""
    return next((folder / name for name in _MODELS if (folder / name).exists()), None)


def folder_of(folder: Path, name: str) -> Path | None:
    """Return a folder of a release, if it has one."""
    return folder / name if (folder / name).is_dir() else None
