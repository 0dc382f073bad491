"""De-identified DICOM files: nothing known is left at any depth, references resolve, intervals stay, pictures or refusal."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from edge_agent.dicom.files import deidentify, deidentify_file
from edge_agent.dicom.pixels import PixelRule, load_rules
from edge_agent.errors import ConfigError, InputError, OutputError

SECRET = b"sixteen bytes or"
CANARY = "Quillfeather"


def sample(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def scrub(text: str) -> str:
    return text.replace("Ottoline", "[PERSON_1]")


def clean(dataset: Dataset, **options: object) -> Dataset:
    given_options: dict[str, object] = {"secret": SECRET, "scrub_text": scrub, **options}
    return deidentify(dataset, **given_options)  # type: ignore[arg-type]


def header(**values: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.20251021.77"
    dataset.StudyInstanceUID = "1.2.826.0.1.20251021"
    dataset.PatientID = "MRN-004417"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def picture(modality: str = "CT", **values: object) -> Dataset:
    dataset = header(
        Modality=modality, Rows=8, Columns=8, BitsAllocated=8, BitsStored=8, HighBit=7,
        SamplesPerPixel=1, PixelRepresentation=0, PhotometricInterpretation="MONOCHROME2", **values,
    )  # fmt: skip
    dataset.PixelData = bytes([200]) * 64
    return dataset


def raw(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_identifiers_go_at_every_depth() -> None:
    innermost = Dataset()
    innermost.PatientName = f"{CANARY}^Ada"
    innermost.ReferencedSOPInstanceUID = "1.2.826.0.1.20251021.77"
    inner = Dataset()
    inner.RequestingPhysician = f"{CANARY}^Ada"
    inner.ReferencedSeriesSequence = [innermost]
    dataset = header(PatientName=f"{CANARY}^Ada", ReferencedStudySequence=[inner])
    dataset.RequestAttributesSequence = [inner]
    cleaned = clean(dataset)
    assert CANARY.encode() not in raw(cleaned)
    reference = cleaned.ReferencedStudySequence[0].ReferencedSeriesSequence[0]
    assert reference.ReferencedSOPInstanceUID == cleaned.SOPInstanceUID
    assert cleaned.SOPInstanceUID.startswith("2.25.")
    assert cleaned.file_meta.MediaStorageSOPInstanceUID == cleaned.SOPInstanceUID
    assert dataset.PatientName == f"{CANARY}^Ada"


def test_a_known_name_is_left_in_no_public_text_element() -> None:
    """Every element of the dictionary that can hold text, listed by the standard's table or not."""
    texts = {"AE", "CS", "LO", "SH", "ST", "LT", "UC", "UT", "PN", "UR"}
    dataset = header(PatientName=f"{CANARY}^Ada")
    count = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in texts and keyword and tag >> 16 > 0x0008 and tag not in {0x00100010, 0x00100020}:
            dataset.add_new(tag, vr, f"x {CANARY} y")
            count += 1
    assert count > 1000
    assert CANARY.encode() not in raw(clean(dataset))


def test_listed_elements_go_whatever_they_hold() -> None:
    dataset = header(
        PatientAddress="zzz1", OtherPatientIDs="zzz2", InstitutionName="zzz3", StationName="zzz4",
        PatientTelephoneNumbers="zzz5", DeviceSerialNumber="zzz6", AccessionNumber="zzz7",
        OperatorsName="zzz8", StudyID="zzz9", PatientBirthDate="19610214",
    )  # fmt: skip
    cleaned = clean(dataset)
    assert b"zzz" not in raw(cleaned)
    assert cleaned.PatientBirthDate == ""
    assert cleaned.AccessionNumber in ("", None)


def test_private_unknown_and_drawn_elements_go() -> None:
    dataset = header()
    dataset.add_new(0x00090010, "LO", "ACME")
    dataset.add_new(0x00091001, "LO", CANARY)
    dataset.add_new(0x60003000, "OW", CANARY.encode())
    dataset.add_new(0x60004000, "LT", CANARY)
    dataset.add_new(0x50003000, "OW", CANARY.encode())
    item = Dataset()
    item.add_new(0x00290010, "LO", "ACME")
    item.add_new(0x00291001, "LO", CANARY)
    dataset.ReferencedImageSequence = [item]
    icon = Dataset()
    icon.PixelData = CANARY.encode()
    dataset.IconImageSequence = [icon]
    cleaned = clean(dataset)
    assert CANARY.encode() not in raw(cleaned)
    assert b"ACME" not in raw(cleaned)
    assert len(cleaned.ReferencedImageSequence) == 1


def test_the_preamble_and_the_file_meta_information_have_no_past() -> None:
    dataset = header()
    dataset.preamble = CANARY.encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "WARD_7"
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = CANARY.encode()
    content = raw(clean(dataset))
    assert CANARY.encode() not in content
    assert b"WARD_7" not in content


def test_free_text_is_scrubbed_and_goes_when_that_fails() -> None:
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", "Ottoline has a clear chest."
    dataset = header(StudyDescription="Chest of Ottoline", ContentSequence=[item])
    cleaned = clean(dataset)
    assert cleaned.StudyDescription == "Chest of [PERSON_1]"
    assert cleaned.ContentSequence[0].TextValue == "[PERSON_1] has a clear chest."

    def failing(text: str) -> str:
        raise RuntimeError(text)

    cleaned = clean(dataset, scrub_text=failing)
    assert not cleaned.StudyDescription
    assert not cleaned.ContentSequence[0].TextValue


def test_a_structured_report_keeps_its_findings() -> None:
    dataset = pydicom.dcmread(sample("test-SR.dcm"))
    cleaned = clean(dataset)
    content = raw(cleaned)
    assert b"A mass of" in content
    assert b"Riesmeier" not in content
    assert b"OFFIS e.V." not in content


def test_uids_are_the_same_over_files_and_differ_by_secret() -> None:
    first, second = clean(header()), clean(header(Modality="CT"))
    assert first.StudyInstanceUID == second.StudyInstanceUID != "1.2.826.0.1.20251021"
    assert clean(header(), secret=b"another secret!!").StudyInstanceUID != first.StudyInstanceUID
    assert first.PatientID == second.PatientID
    assert first.PatientID.startswith("ANON-")
    assert first.SOPClassUID == CTImageStorage
    assert UID(first.StudyInstanceUID).is_valid


def test_what_only_looks_like_a_standard_uid_is_mapped() -> None:
    dataset = header(
        StudyInstanceUID=f"1.2.840.10008.{CANARY}", SeriesInstanceUID="1.2.840.10008.5"
    )
    dataset.SOPClassUID = CANARY
    cleaned = clean(dataset)
    assert cleaned.StudyInstanceUID.startswith("2.25.")
    assert cleaned.SeriesInstanceUID == "1.2.840.10008.5"
    assert cleaned.SOPClassUID == ""


days = st.dates(min_value=date(1960, 1, 1), max_value=date(2035, 12, 31))


@settings(max_examples=40, deadline=None)
@given(days, days, st.text("ABCDEF0123456789", min_size=1, max_size=12))
def test_dates_move_by_whole_weeks_and_keep_intervals(one: date, two: date, patient: str) -> None:
    dataset = header(PatientID=patient, StudyDate=f"{one:%Y%m%d}", StudyTime="101500")
    dataset.AcquisitionDateTime = f"{two:%Y%m%d}101500.5+0100"
    cleaned = clean(dataset)
    moved = date.fromisoformat(cleaned.StudyDate)
    assert (one - moved).days % 7 == 0
    assert 7 <= (one - moved).days <= 3640
    assert cleaned.AcquisitionDateTime[8:] == "101500.5+0100"
    assert date.fromisoformat(cleaned.AcquisitionDateTime[:8]) - moved == two - one
    assert cleaned.StudyTime == "101500"


@pytest.mark.parametrize(
    ("written", "moved"), [("1997.04.24", 8), ("yesterday", 0), ("20251399", 0), ("00010101", 0)]
)
def test_odd_dates(written: str, moved: int) -> None:
    cleaned = clean(header(StudyDate=written))
    assert len(cleaned.StudyDate) == moved
    assert cleaned.StudyDate != written.replace(".", "")


@pytest.mark.parametrize(
    ("age", "kept"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("104Y", "090Y"), ("012M", "012M"), ("93", "")],
)
def test_ages_over_89_become_90(age: str, kept: str) -> None:
    assert clean(header(PatientAge=age)).PatientAge == kept


def test_what_was_done_is_recorded() -> None:
    cleaned = clean(header(PatientSex="F"))
    assert cleaned.PatientIdentityRemoved == "YES"
    assert cleaned.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = {item.CodeValue for item in cleaned.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113104", "113105", "113107", "113108"}
    assert cleaned.PatientSex == "F"


def test_pictures_stay_unless_somebody_promises_that_they_carry_no_text() -> None:
    for dataset in (
        picture("US"),
        picture("US", BurnedInAnnotation="NO"),
        picture("SC"),
        picture("CT"),
        picture("CT", BurnedInAnnotation="YES", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]),
        picture("CT", BurnedInAnnotation="NO", RecognizableVisualFeatures="YES"),
    ):
        with pytest.raises(InputError, match=r"may carry text|recognizable face"):
            clean(dataset)
    assert clean(picture("CT", BurnedInAnnotation="NO")).PixelData == bytes([200]) * 64
    primary = picture("CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    assert clean(primary).PixelData == bytes([200]) * 64


def test_a_rule_masks_its_rectangles_before_the_header_changes() -> None:
    rule = PixelRule(
        name="r",
        modality="US",
        manufacturer="acme",
        rows=8,
        columns=8,
        mask=((0, 0, 8, 2), (6, 4, 8, 8)),
    )
    cleaned = clean(
        picture("US", Manufacturer="ACME Corp", BurnedInAnnotation="YES"), rules=(rule,)
    )
    expected = np.full((8, 8), 200, dtype=np.uint8)
    expected[:2] = 0
    expected[4:, 6:] = 0
    assert (cleaned.pixel_array == expected).all()
    assert cleaned.BurnedInAnnotation == "NO"
    codes = {item.CodeValue for item in cleaned.DeidentificationMethodCodeSequence}
    assert "113101" in codes
    with pytest.raises(InputError):
        clean(picture("US", Manufacturer="Other"), rules=(rule,))


def test_several_compressed_frames_are_masked() -> None:
    dataset = pydicom.dcmread(sample("SC_rgb_rle_2frame.dcm"))
    rule = PixelRule(name="r", modality=str(dataset.Modality), mask=((0, 0, 1000, 10),))
    cleaned = clean(dataset, rules=(rule,))
    pixels = cleaned.pixel_array
    assert pixels.shape == dataset.pixel_array.shape
    assert not pixels[:, :10].any()
    assert (pixels[:, 10:] == dataset.pixel_array[:, 10:]).all()


def test_a_picture_that_cannot_be_decoded_is_refused() -> None:
    dataset = picture("CT")
    dataset.PixelData = b"cut"
    rule = PixelRule(name="r", modality="CT", mask=((0, 0, 10, 10),))
    with pytest.raises(InputError, match="cannot be decoded"):
        clean(dataset, rules=(rule,))


def test_encapsulated_documents_are_refused() -> None:
    with pytest.raises(InputError, match="encapsulated document"):
        clean(header(EncapsulatedDocument=b"%PDF"))


def test_a_short_secret_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        clean(header(), secret=b"short")


def test_rules_are_checked(tmp_path: Path) -> None:
    assert len(load_rules()) >= 5
    path = tmp_path / "rules.toml"
    for source, complaint in (
        ("[[rule]]\nname='a'\nmodality='CT'\nmask=[[0,0,5]]\n", r"key 'rule\.0\.mask"),
        ("[[rule]]\nname='a'\nmodality='ct'\nmask=[]\n", "modality"),
        ("[[rule]\n", "no readable TOML"),
    ):
        path.write_text(source)
        with pytest.raises(ConfigError, match=complaint):
            load_rules(path)


def test_a_file_gets_a_new_name_and_passes_as_dicom(tmp_path: Path) -> None:
    path = deidentify_file(
        sample("CT_small.dcm"), tmp_path / "out", secret=SECRET, scrub_text=scrub
    )
    assert path.name.startswith("2.25.")
    original, cleaned = pydicom.dcmread(sample("CT_small.dcm")), pydicom.dcmread(path)
    assert (cleaned.pixel_array == original.pixel_array).all()
    content = path.read_bytes()
    for value in (b"CompressedSamples", b"1CT1", b"JFK IMAGING", b"CT01_OC0", b"20040119"):
        assert value not in content
    assert cleaned.Manufacturer == original.Manufacturer
    assert cleaned.Rows == original.Rows
    assert list((tmp_path / "out").iterdir()) == [path]


@pytest.mark.parametrize("name", ["rtplan_truncated.dcm", "README.txt", "MR_truncated.dcm"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refusal:
        deidentify_file(sample(name), tmp_path / "out", secret=SECRET, scrub_text=scrub)
    assert name not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        deidentify_file(sample("CT_small.dcm"), tmp_path / "out", secret=SECRET, scrub_text=scrub)


def test_every_file_that_pydicom_ships_is_cleaned_or_refused(tmp_path: Path) -> None:
    files = sorted(sample("CT_small.dcm").parent.glob("*.dcm"))
    num_cleaned = 0
    for source in files:
        try:
            path = deidentify_file(source, tmp_path, secret=SECRET, scrub_text=scrub)
        except InputError as refusal:
            assert source.name not in str(refusal)
            continue
        num_cleaned += 1
        content = path.read_bytes()
        original = pydicom.dcmread(source)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID"):
            value = str(original.get(keyword, ""))
            if len(value) >= 6:
                assert value.encode() not in content, (source.name, keyword)
        assert not any(element.tag.is_private for element in pydicom.dcmread(path).iterall())
    assert num_cleaned >= 15
