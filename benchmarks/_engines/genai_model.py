"""Makes onnxruntime-genai's int4 model of a GGUF file: its own builder, fed with the very weights that the file holds.

The builder reads a Hugging Face folder, or a GGUF of floats; ours are quantised, so their float32 values go into a folder first.
Nothing is fetched. Run as a program, so that a benchmark's process does not carry what the builder needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_OPTIONS = ("accuracy_level=4", "block_size=32")  # 8-bit activations, blocks as in the file


def model_folder(model: Path, cache_dir: Path) -> Path:
    """Find the folder of a model, or build it there; a minute for 135M."""
    folder = cache_dir / f"onnxruntime-genai-{model.stem}"
    if not (folder / "genai_config.json").is_file():
        command = [sys.executable, "-m", __name__, str(model), str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
    return folder


def _build(model: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    from cloud_service.config import ModelConfig
    from cloud_service.engine.model import load_model

    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
    try:
        floats, built = work / "floats", work / "built"
        loaded = load_model(ModelConfig(name=str(model), device="cpu", dtype="float32"))
        loaded.module.save_pretrained(floats)
        tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
        tokenizer.save_pretrained(floats)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(floats), "-o", str(built), "-c", str(work / "cache")]
        command += ["-p", "int4", "-e", "cpu", "--extra_options", *_OPTIONS]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        subprocess.run(command, check=True, env=os.environ | offline)  # noqa: S603 - our own words
        built.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    _build(Path(sys.argv[1]), Path(sys.argv[2]))
