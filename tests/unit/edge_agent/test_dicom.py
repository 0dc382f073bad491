"""DICOM: header elements, structured reports, encapsulated text, identifiers, and files that lie."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
)
from pydicom.valuerep import PersonName

from edge_agent.dicom.identifiers import person_names
from edge_agent.dicom.reader import MAX_INFLATED_BYTES
from edge_agent.dicom.report import MAX_HEADER_BYTES, read_report
from edge_agent.errors import ConfigError, InputError
from edge_agent.flow import Entity, Request
from edge_agent.preprocess import prepare
from partition.task import Task, TaskKind


def sample(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def written(dataset: Dataset, *, deflated: bool = False) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def known(dataset: Dataset) -> dict[str, set[str]]:
    dataset.StudyDescription = "chest"
    values = read_report(written(dataset), ("StudyDescription",)).known
    return {
        entity: {value.value for value in values if value.entity == entity}
        for entity in {value.entity for value in values}
    }


def test_header_elements_that_the_task_names_become_lines() -> None:
    report = read_report(sample("CT_small.dcm"), ("StudyDescription", "PatientAge", "StudyDate"))
    assert report.text == "Study Description: e+1\nPatient's Age: 0 years\nStudy Date: 2004-01-19"


def test_a_file_without_text_is_refused() -> None:
    with pytest.raises(InputError, match="holds no text, and its pixels are never read"):
        read_report(sample("CT_small.dcm"), ("BodyPartExamined",))


@pytest.mark.parametrize("keyword", ["PixelData", "OverlayData", "ContentSequence", "NoSuchThing"])
def test_a_task_can_name_only_elements_with_text(keyword: str) -> None:
    with pytest.raises(ConfigError, match=f"{keyword} is no DICOM header element with text"):
        read_report(sample("CT_small.dcm"), (keyword,))


def test_a_structured_report_becomes_its_content_tree() -> None:
    lines = read_report(sample("test-SR.dcm")).text.splitlines()
    assert lines[0] == "  Text Code: A mass of"
    assert lines[3:5] == ["  Diameter: 3 cm", "    Code: Sample Code"]
    assert "  Date: 2000-12-06" in lines


def test_every_value_type_of_a_structured_report() -> None:
    def code(meaning: str, value: str = "C1") -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99T", meaning
        return [item]

    def content(kind: str, name: str, **values: object) -> Dataset:
        item = Dataset()
        item.ValueType = kind
        item.ConceptNameCodeSequence = code(name)
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return item

    measured = Dataset()
    measured.NumericValue = "12.5"
    measured.MeasurementUnitsCodeSequence = code("millimeter", "mm")
    section = content("CONTAINER", "Findings")
    section.ContentSequence = [
        content("TEXT", "Finding", TextValue="Clear lungs."),
        content("CODE", "Side", ConceptCodeSequence=code("left")),
        content("NUM", "Diameter", MeasuredValueSequence=[measured]),
        content("DATE", "Seen", Date="20240131"),
        content("PNAME", "Observer", PersonName="Oyelaran^Ife"),
        content("UIDREF", "Tracked", UID="1.2.3"),
        content("IMAGE", "Key image"),
    ]
    dataset = Dataset()
    dataset.ContentSequence = [section]
    report = read_report(written(dataset))
    assert report.text.splitlines() == [
        "Findings",
        "  Finding: Clear lungs.",
        "  Side: left",
        "  Diameter: 12.5 mm",
        "  Seen: 2024-01-31",
        "  Observer: Oyelaran^Ife",
    ]
    assert "Ife Oyelaran" in {value.value for value in report.known}


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("text/plain", b"Normal heart.\0", "Normal heart."),
        ("text/xml", "<a><b>Größe</b> normal<script>x()</script></a>".encode(), "Größe\nnormal"),
        ("application/xml+xml", b"<x>y</x>", "y"),
    ],
)
def test_encapsulated_text(kind: str, content: bytes, text: str) -> None:
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = kind
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"z" * (2 + len(content) % 2)  # no part of it
    assert read_report(written(dataset)).text == text


def test_an_encapsulated_pdf_is_no_text() -> None:
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = b"%PDF-1.7 "
    with pytest.raises(InputError, match="holds no text"):
        read_report(written(dataset))


def test_entities_of_an_xml_bomb_do_not_expand() -> None:
    lines = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{lines}]><x>&e12;</x>'.encode()
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = "text/xml"
    dataset.EncapsulatedDocument = bomb + b" " * (len(bomb) % 2)
    assert len(read_report(written(dataset)).text) < 5000


def test_known_values_of_the_header() -> None:
    other = Dataset()
    other.PatientID = "ALT-5512"
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Okonkwo^Chidera^Ngozi"
    dataset.ReferringPhysicianName = "Wang^Xiaodong=王^小东"
    dataset.PatientID = "MRN-004417"
    dataset.AccessionNumber = "ACC778123"
    dataset.PatientBirthDate = "19610214"
    dataset.InstitutionName = "Harrowgate Infirmary"
    dataset.InstitutionAddress = "4 Mill Lane, Harrowgate"
    dataset.StudyID = "7"
    dataset.StudyInstanceUID = "1.2.826.0.1.99"
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.OtherPatientIDsSequence = [other]
    values = known(dataset)
    assert {
        "Okonkwo^Chidera^Ngozi",
        "Chidera Okonkwo",
        "Okonkwo, Chidera",
        "Chidera N. Okonkwo",
        "Chidera Ngozi Okonkwo",
        "Wang Xiaodong",
        "王小东",
    } <= values[Entity.PERSON]
    assert {"1961-02-14", "19610214"} <= values[Entity.DATE]
    assert values[Entity.ID] == {"MRN-004417", "ACC778123", "ALT-5512", "1.2.826.0.1.99"}
    assert values[Entity.ORGANIZATION] == {"Harrowgate Infirmary"}
    assert values[Entity.LOCATION] == {"4 Mill Lane, Harrowgate"}


@pytest.mark.parametrize(
    ("name", "writings"),
    [
        ("SMITH", ["SMITH"]),
        ("", []),
        ("^^", []),
        ("Smith^John", ["Smith^John", "John Smith", "Smith John", "Smith, John"]),
        ("王^伟", ["王^伟", "王伟", "王 伟"]),
    ],
)
def test_person_names(name: str, writings: list[str]) -> None:
    assert list(person_names(PersonName(name))) == writings


def test_prepare_joins_the_callers_and_the_headers_known_values() -> None:
    task = Task(name="t", kind=TaskKind.GENERATE, dicom_fields=("StudyDescription",))
    prepared = prepare(Request(id="1", task="t", dicom=sample("CT_small.dcm")), task)
    assert prepared.messages[0].text == "Study Description: e+1"
    assert {"JFK IMAGING CENTER", "1CT1"} <= {value.value for value in prepared.known}


@pytest.mark.parametrize("name", ["rtplan_truncated.dcm", "README.txt", "zipMR.gz"])
def test_cut_off_or_foreign_files_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match="damaged, cut off or none at all") as refusal:
        read_report(sample(name), ("StudyDate",))
    assert name not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_file_cut_anywhere_before_its_last_text_is_refused() -> None:
    whole = sample("test-SR.dcm").read_bytes()
    for length in range(0, len(whole) - 8, 97):
        with pytest.raises(InputError, match="damaged, cut off"):
            read_report(whole[:length], ("StudyDescription",))


def test_a_text_cut_in_the_middle_is_not_taken_for_the_whole() -> None:
    dataset = Dataset()
    dataset.StudyDescription = "Chest"
    dataset.ImageComments = "No nodule was seen, but " * 20
    raw = written(dataset)
    with pytest.raises(InputError, match="damaged, cut off"):
        read_report(raw[:-100], ("StudyDescription", "ImageComments"))


def test_pixels_cut_off_do_not_matter() -> None:
    assert "2004-08-26" in read_report(sample("MR_truncated.dcm"), ("StudyDate",)).text


def test_a_missing_file_is_told_without_its_name() -> None:
    with pytest.raises(InputError, match="cannot be opened") as refusal:
        read_report(Path("/nowhere/OKONKWO_CHIDERA.dcm"))
    assert "OKONKWO" not in str(refusal.value)


def test_a_length_beyond_the_end_costs_no_memory() -> None:
    head = written(Dataset())
    element = struct.pack("<HH2sHL", 0x0042, 0x0011, b"OB", 0, 0xFFFFFFF0)
    with pytest.raises(InputError):
        read_report(head + element + b"x" * 100)


def test_a_header_larger_than_a_header_is_refused() -> None:
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = "text/plain"
    dataset.EncapsulatedDocument = b"x" * (MAX_HEADER_BYTES + 2)
    with pytest.raises(InputError):
        read_report(written(dataset))


def test_a_deflated_report_is_read_and_a_deflate_bomb_is_not() -> None:
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = "text/plain"
    dataset.EncapsulatedDocument = b"All clear."
    assert read_report(written(dataset, deflated=True)).text == "All clear."
    head = written(Dataset(), deflated=True)
    meta_end = 128 + 4 + 12 + pydicom.dcmread(io.BytesIO(head)).file_meta[0x00020000].value
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(b"\0" * (1 << 20)) for _ in range(128)) + deflater.flush()
    assert len(bomb) < 1 << 20
    with pytest.raises(InputError):
        read_report(head[:meta_end] + bomb)


def test_a_picture_that_inflates_beyond_the_bound_is_not_inflated() -> None:
    dataset = Dataset()
    dataset.StudyDescription = "Chest"
    dataset.BitsAllocated = 8
    dataset.PixelData = bytes(MAX_INFLATED_BYTES)
    raw = written(dataset, deflated=True)
    del dataset
    assert len(raw) < 1 << 20
    with pytest.raises(InputError, match="damaged"):
        read_report(raw, ("StudyDescription",))


def test_a_value_of_which_nothing_is_left_is_noticed() -> None:
    dataset = Dataset()
    dataset.StudyDescription = "Chest"
    dataset.ImageComments = "No nodule was seen."
    raw = written(dataset)
    with pytest.raises(InputError, match="damaged, cut off"):
        read_report(raw[: raw.index(b"No nodule")], ("StudyDescription", "ImageComments"))


def test_endless_nesting_is_refused() -> None:
    innermost = Dataset()
    innermost.ValueType = "CONTAINER"
    for _ in range(60):
        outer = Dataset()
        outer.ValueType = "CONTAINER"
        outer.ContentSequence = [innermost]
        innermost = outer
    with pytest.raises(InputError, match="damaged"):
        read_report(written(innermost))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "UN_sequence.dcm"]),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=12),
    cut=st.one_of(st.none(), st.integers(0, 8000)),
)
def test_damaged_files_give_a_report_or_one_clear_error(
    name: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    raw = bytearray(sample(name).read_bytes())
    for position, value in edits:
        raw[position % len(raw)] = value
    try:
        read_report(bytes(raw[:cut]), ("StudyDescription", "PatientAge", "StudyDate"))
    except InputError as error:
        assert str(error).startswith("the DICOM file")
