"""Every element of PS3.15 Table E.1-1, at the top and nested, ends as the table allows; public validators agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_keyword

from benchmarks._stuffed_dicom import NAME, nested, outcomes, rules, stuffed
from benchmarks.dicom_profile import kinds_of_errors
from edge_agent.dicom.files import deidentify, deidentify_file

SECRET = b"sixteen bytes or more"
# Elements whose bytes nobody can read are removed where the table asks for a dummy.
REMOVED = {"SelectorUNValue"}
NAMES = ("reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm", "test-SR.dcm")


def scrub(text: str) -> str:
    return text.replace(NAME, "[PERSON_1]")


def test_every_element_of_the_table_ends_as_it_allows() -> None:
    before = stuffed()
    after = deidentify(before, secret=SECRET, scrub_text=scrub)
    assert len(rules()) > 600
    for was, now in ((before, after), (nested(before), nested(after))):
        assert was is not None
        assert now is not None
        wrong = {
            dictionary_keyword(rule.tag): outcome
            for rule, representation, outcome in outcomes(was, now)
            if not rule.allows(outcome, representation, options=True)
        }
        assert set(wrong) <= REMOVED, wrong
        assert "kept" not in wrong.values()
    assert NAME.lower() not in str(after).lower()


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_no_worse_than_its_file_by_dciodvfy(name: str, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not here; install the package dicom3tools")
    source = get_testdata_file(name, download=False)
    if source is None:
        pytest.skip(f"pydicom comes without {name}")
    copy = deidentify_file(Path(str(source)), tmp_path, secret=SECRET, scrub_text=scrub)
    more = kinds_of_errors(copy) - kinds_of_errors(Path(str(source)))
    assert not {
        error for error in more if "Type 1 Required" in error and "SOPClassUID" not in error
    }


def test_dicomqc_finds_nothing_in_a_copy(tmp_path: Path) -> None:
    dicomqc = pytest.importorskip("dicomqc")
    before = stuffed()
    path = tmp_path / "in.dcm"
    for tag in [tag for tag in before.keys() if tag >> 16 in (0, 2)]:  # noqa: SIM118 - a Dataset yields elements
        del before[tag]
    before.save_as(path, enforce_file_format=True)
    deidentify_file(path, tmp_path / "out", secret=SECRET, scrub_text=scrub)
    assert dicomqc.scan_paths([str(path)]).findings
    assert not dicomqc.scan_paths([str(tmp_path / "out")]).findings
