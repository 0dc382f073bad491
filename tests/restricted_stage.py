"""Runs the stages of a model and writes what they say; a program, so that it can be run on a CPU that is emulated."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.weights.safetensors_folder import SafetensorsFolder

CONTEXT = 96


def open_stage(folder: Path, precision: Precision) -> OnnxStage:
    """The stage of a model's folder, from a cache beside it."""
    return OnnxStage.open(
        SafetensorsFolder.open(folder),
        precision=precision,
        threads=1,
        context_tokens=CONTEXT,
        cache_dir=folder.parent / "cache",
    )


def run(stage: OnnxStage, ids: np.ndarray) -> np.ndarray:
    """Logits of a prompt's positions, of branches behind it, and of two tokens one by one."""
    prompt, branches, steps = ids[:-8], ids[-8:-2], ids[-2:]
    length = len(prompt)
    whole = stage.extend("s", prompt, base_len=0, rows=np.arange(length)).logits
    parents = [-1, 0, 1, -1, 3, 1]
    tree = stage.extend_branches(
        "s", branches, base_len=length, parents=parents, rows=np.arange(len(parents))
    ).logits
    single = [
        stage.extend("s", steps[at : at + 1], base_len=length + at).logits
        for at in range(len(steps))
    ]
    return np.concatenate((whole, tree, *single))


if __name__ == "__main__":
    model, result = Path(sys.argv[1]), Path(sys.argv[2])
    token_ids = np.load(model.parent / "ids.npy")
    said = {str(one): run(open_stage(model, one), token_ids) for one in Precision}
    np.savez(result, **said)
