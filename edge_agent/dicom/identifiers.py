"""The identifiers that a DICOM header knows, so that the anonymizer finds them in the text without guessing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_agent.flow import Entity, KnownValue

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.valuerep import PersonName

STANDARD_ROOT = "1.2.840.10008."  # UIDs of the standard itself identify nobody
MIN_ID_CHARACTERS = 4  # a study ID "1" would blank every 1
MAX_NESTING = 32

# By keyword (PS3.6); names, dates and UIDs are known by their representation, wherever they stand.
_ENTITY_BY_KEYWORD = {
    "AccessionNumber": Entity.ID,
    "AdmissionID": Entity.ID,
    "DetectorID": Entity.ID,
    "DeviceSerialNumber": Entity.ID,
    "DeviceUID": Entity.ID,
    "FillerOrderNumberImagingServiceRequest": Entity.ID,
    "GantryID": Entity.ID,
    "InstitutionAddress": Entity.LOCATION,
    "InstitutionName": Entity.ORGANIZATION,
    "MedicalRecordLocator": Entity.ID,
    "OtherPatientIDs": Entity.ID,
    "PatientAddress": Entity.LOCATION,
    "PatientID": Entity.ID,
    "PatientTelephoneNumbers": Entity.PHONE,
    "PerformedProcedureStepID": Entity.ID,
    "PerformedStationAETitle": Entity.ID,
    "PerformedStationName": Entity.ID,
    "PlacerOrderNumberImagingServiceRequest": Entity.ID,
    "PlateID": Entity.ID,
    "ReferringPhysicianAddress": Entity.LOCATION,
    "ReferringPhysicianTelephoneNumbers": Entity.PHONE,
    "RequestedProcedureID": Entity.ID,
    "RequestingService": Entity.ORGANIZATION,
    "ScheduledProcedureStepID": Entity.ID,
    "ScheduledStationAETitle": Entity.ID,
    "ServiceEpisodeID": Entity.ID,
    "StationName": Entity.ID,
    "StudyID": Entity.ID,
    "UniqueDeviceIdentifier": Entity.ID,
    "VerifyingOrganization": Entity.ORGANIZATION,
}
_PERSON_KEYWORDS = (
    "ConsultingPhysicianName",
    "ContentCreatorName",
    "EvaluatorName",
    "InterpretationAuthor",
    "InterpretationRecorder",
    "InterpretationTranscriber",
    "NamesOfIntendedRecipientsOfResults",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "OrderEnteredBy",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientName",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "ReferringPhysicianName",
    "RequestingPhysician",
    "ResponsiblePerson",
    "ReviewerName",
    "ScheduledPerformingPhysicianName",
)
_DATE_KEYWORDS = (
    "AcquisitionDate",
    "AdmittingDate",
    "ContentDate",
    "PatientBirthDate",
    "PerformedProcedureStepStartDate",
    "SeriesDate",
    "StudyDate",
)
_UID_KEYWORDS = (
    "FrameOfReferenceUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SynchronizationFrameOfReferenceUID",
)
_NESTING_KEYWORDS = (
    "ConsultingPhysicianIdentificationSequence",
    "OtherPatientIDsSequence",
    "ReferencedStudySequence",
    "ReferringPhysicianIdentificationSequence",
    "RequestAttributesSequence",
    "VerifyingObserverSequence",
)
IDENTIFYING_KEYWORDS = (
    *_ENTITY_BY_KEYWORD,
    *_PERSON_KEYWORDS,
    *_DATE_KEYWORDS,
    *_UID_KEYWORDS,
    *_NESTING_KEYWORDS,
)


def known_values(dataset: Dataset) -> tuple[KnownValue, ...]:
    """Collect every identifier of the elements that were read, at any depth, each once."""
    return tuple(dict.fromkeys(_values(dataset, MAX_NESTING)))


def person_names(name: PersonName) -> Iterator[str]:
    """Yield one DICOM name in the orders in which people write it.

    ``Yamada^Tarou=山田^太郎`` gives each of its writings as it stands, joined in both orders and, for ideographs,
    without a space. Prefix and suffix (``Dr.``, ``Jr.``) are left out.
    """
    for writing in str(name).split("="):
        raw = writing.strip().strip("^")
        if not raw:
            continue
        yield raw
        family, given, middle, *_ = [part.strip() for part in (*raw.split("^"), "", "", "")][:3]
        if not (family and given):
            continue
        if all(ord(character) >= 0x2E80 for character in family + given):
            yield family + given
            yield f"{family} {given}"
            continue
        yield f"{given} {family}"
        yield f"{family} {given}"
        yield f"{family}, {given}"
        if middle:
            yield f"{given} {middle} {family}"
            yield f"{given} {middle[0]}. {family}"
            yield f"{given} {middle[0]} {family}"
            yield f"{family} {given} {middle}"
            yield f"{family}, {given} {middle}"
            yield f"{family}, {given} {middle[0]}"


def _values(dataset: Dataset, levels: int) -> Iterator[KnownValue]:
    if levels == 0:
        raise ValueError("sequences nested without end")
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _values(item, levels - 1)
            continue
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            if value is None or isinstance(value, bytes):
                continue
            if element.VR == "PN":
                for writing in person_names(value):
                    yield KnownValue(entity=Entity.PERSON, value=writing)
            elif (known := _known(element.keyword, element.VR, str(value).strip())) is not None:
                yield from known


def _known(keyword: str, representation: str, value: str) -> tuple[KnownValue, ...] | None:
    digits = value.replace(".", "")  # 2004.01.19 in older files
    if representation == "DA" and len(digits) == 8 and digits.isdecimal():
        spelled = f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
        return tuple(KnownValue(entity=Entity.DATE, value=text) for text in (spelled, value))
    if representation == "UI":
        if value and not value.startswith(STANDARD_ROOT):
            return (KnownValue(entity=Entity.ID, value=value),)
        return None
    entity = _ENTITY_BY_KEYWORD.get(keyword)
    if entity is None or not value or (entity is Entity.ID and len(value) < MIN_ID_CHARACTERS):
        return None
    return (KnownValue(entity=entity, value=value),)
