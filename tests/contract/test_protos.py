"""The generated code is what the proto files say, and the proto files are in order."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted(path.relative_to(ROOT) for path in ROOT.glob("protos/*/v1/*.proto"))


def test_generated_modules_are_those_of_a_fresh_run(tmp_path: Path) -> None:
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *map(str, PROTOS)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    fresh = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert len(fresh) == 3 * len(PROTOS)
    for path in fresh:
        assert (ROOT / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_buf_finds_nothing_to_complain_about() -> None:
    buf = shutil.which("buf", path=Path(sys.executable).parent)
    if buf is None:
        pytest.skip("buf is not installed; install the extra `dev`")
    result = subprocess.run([buf, "lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_folder_of_generated_modules_is_a_package() -> None:
    for proto in PROTOS:
        for folder in (proto.parent, proto.parent.parent):
            assert (ROOT / folder / "__init__.py").is_file(), folder
