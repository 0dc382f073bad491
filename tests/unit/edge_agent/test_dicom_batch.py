"""Folders of DICOM files: each becomes a copy or a sentence, and no file name is repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from edge_agent.dicom.batch import deidentify_files, list_files
from edge_agent.errors import InputError


def put(folder: Path, name: str, sample: str) -> None:
    path = get_testdata_file(sample, download=False)
    assert isinstance(path, str)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / name)


def test_a_study_stays_together_and_every_file_is_answered(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    put(source, "a/OKONKWO_1.dcm", "CT_small.dcm")
    put(source, "a/OKONKWO_2.dcm", "test-SR.dcm")
    put(source, "b/OKONKWO_3.dcm", "README.txt")
    put(source, "b/OKONKWO_4.dcm", "SC_rgb_small_odd.dcm")
    (source / "link.dcm").symlink_to(source / "a/OKONKWO_1.dcm")
    files = list_files(source)
    results = list(deidentify_files(files, target, secret=b"0" * 16, scrub_text=lambda text: text))
    assert [result.number for result in results] == [1, 2, 3, 4]
    assert [result.copy is not None for result in results] == [True, True, False, False]
    assert "OKONKWO" not in repr(results)
    copies = {result.copy for result in results if result.copy}
    assert set(target.iterdir()) == copies
    assert all(pydicom.dcmread(copy).PatientIdentityRemoved == "YES" for copy in copies)


def test_the_same_file_twice_is_the_same_copy(tmp_path: Path) -> None:
    put(tmp_path, "x.dcm", "CT_small.dcm")
    files = list_files(tmp_path / "x.dcm")
    first, second = (
        [r.copy for r in deidentify_files(files, tmp_path / "o", secret=b"0" * 16, scrub_text=str)]
        for _ in range(2)
    )
    assert first == second


def test_nothing_to_do_is_told(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="there is no file"):
            list_files(source)
