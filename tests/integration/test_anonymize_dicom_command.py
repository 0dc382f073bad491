"""``edge-agent anonymize --dicom``: with the real anonymizer, key file and pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.data import get_testdata_file

from edge_agent.commands.anonymize import anonymize
from edge_agent.errors import InputError
from partition.store.model_store import ModelStore


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("lac",):
        if not ModelStore().has(name):
            pytest.skip(f"needs {name}; run: edge-agent models pull {name}")
    path = tmp_path / "edge.toml"
    path.write_text(f'state_folder = "{tmp_path / "state"}"\n')
    return path


def put(folder: Path, name: str, sample: str) -> None:
    path = get_testdata_file(sample, download=False)
    assert isinstance(path, str)
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / name)


def test_a_folder_of_files(tmp_path: Path, config: Path) -> None:
    put(tmp_path / "in", "RIESMEIER.dcm", "test-SR.dcm")
    put(tmp_path / "in", "CT.dcm", "CT_small.dcm")
    put(tmp_path / "in", "US.dcm", "SC_rgb_small_odd.dcm")
    arguments = ["--dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--config", str(config)]
    result = CliRunner().invoke(anonymize, [*arguments, "--language", "en", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["files"], told["copies"], told["refused"]) == (3, 2, 1)
    assert "file 3: the picture may carry text" in result.stderr
    assert "RIESMEIER" not in result.output
    copies = list((tmp_path / "out").iterdir())
    assert len(copies) == 2
    for copy in copies:
        assert pydicom.dcmread(copy).PatientIdentityRemoved == "YES"
        assert b"Riesmeier" not in copy.read_bytes()
    assert (tmp_path / "state/device.key").stat().st_mode & 0o077 == 0


def test_nothing_that_may_leave(tmp_path: Path, config: Path) -> None:
    put(tmp_path / "in", "US.dcm", "SC_rgb_small_odd.dcm")
    arguments = ["--dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--config", str(config)]
    result = CliRunner().invoke(anonymize, [*arguments, "--language", "en"])
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "out").exists()


def test_wrong_usage() -> None:
    for arguments in ([], ["--input", "a"], ["--dicom", "a", "b", "--output", "c"]):
        assert CliRunner().invoke(anonymize, arguments).exit_code == 2
