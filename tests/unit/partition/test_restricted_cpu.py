"""Stages on CPUs without the instructions of this one: AVX2 without VNNI, and neither; emulated by qemu."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from partition.stages import overflow
from partition.stages.stage_range import Precision
from tests.restricted_stage import open_stage, run
from tests.tiny_models import VOCAB_SIZE, write_tiny_model

QEMU = shutil.which("qemu-x86_64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restricted") / "model"
    write_tiny_model("llama", folder)
    ids = np.random.default_rng(5).integers(0, VOCAB_SIZE, 48).astype(np.int32)
    np.save(folder.parent / "ids.npy", ids)
    return folder


def test_the_probe_is_a_product_of_integers() -> None:
    (node,) = onnx.load_from_string(base64.b64decode(overflow._PRODUCT)).graph.node
    assert (node.op_type, list(node.input)) == ("MatMulInteger", ["a", "b"])


@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 here; install qemu-user")
# Haswell: pairs of 8-bit products are added in 16 bits, and overflow unless ONNX Runtime is told not to. Nehalem has no AVX at all,
# and multiplies the head's blocks in float32, where others round activations to 8 bits first.
@pytest.mark.parametrize(("cpu", "tolerance"), [("Haswell-noTSX", 1e-4), ("Nehalem", 0.1)])
def test_a_lesser_cpu_says_the_same(folder: Path, cpu: str, tolerance: float) -> None:
    result = folder.parent / f"{cpu}.npz"
    native = {
        one: run(open_stage(folder, one), np.load(folder.parent / "ids.npy")) for one in Precision
    }
    command = [str(QEMU), "-cpu", cpu, sys.executable, "-m", "tests.restricted_stage"]
    done = subprocess.run(
        [*command, str(folder), str(result)],
        check=False,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    emulated = np.load(result)
    for precision, expected in native.items():
        np.testing.assert_allclose(emulated[precision], expected, rtol=0, atol=tolerance)
