"""What PS3.15 Annex E says to do with each DICOM element.

The Basic Application Level Confidentiality Profile (113100) as in the tables of dicom-anonymizer, with the options Clean
Descriptors (113105), Clean Structured Content (113104), Modified Dates (113107) and Retain Patient Characteristics
(113108, of which: sex, age, size and weight). Where the table leaves a choice (X/Z, X/D, ...), the element is emptied or
replaced, so that a file stays valid. Elements that the table does not know are kept unless their kind forbids it.
"""

from __future__ import annotations

import enum
from functools import cache

TABLES = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
REPLACEMENT = "ANONYMIZED"

BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXEL_DATA = ("113101", "Clean Pixel Data Option")
METHODS = (
    BASIC_PROFILE,
    ("113104", "Clean Structured Content Option"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)

# Free text that is worth cleaning: the answer may depend on it (column "Clean Desc. Opt." of table E.1-1).
CLEANED_KEYWORDS = frozenset(
    [
        "AcquisitionComments",
        "AcquisitionProtocolDescription",
        "AdditionalPatientHistory",
        "AdmittingDiagnosesDescription",
        "Allergies",
        "ClinicalTrialSeriesDescription",
        "ClinicalTrialTimePointDescription",
        "CommentsOnThePerformedProcedureStep",
        "ContrastBolusAgent",
        "DerivationDescription",
        "FrameComments",
        "ImageComments",
        "Impressions",
        "InterpretationText",
        "MedicalAlerts",
        "PatientComments",
        "PatientState",
        "PerformedProcedureStepDescription",
        "ProtocolName",
        "ReasonForStudy",
        "ReasonForTheImagingServiceRequest",
        "ReasonForTheRequestedProcedure",
        "RequestedContrastAgent",
        "RequestedProcedureComments",
        "RequestedProcedureDescription",
        "ResultsComments",
        "ScheduledProcedureStepDescription",
        "SeriesDescription",
        "SpecialNeeds",
        "StudyComments",
        "StudyDescription",
        "TextValue",
        "UnformattedTextValue",
        "VisitComments",
    ]
)
PATIENT_CHARACTERISTICS = frozenset({"PatientAge", "PatientSex", "PatientSize", "PatientWeight"})
# Sequences that the table lists for the references in them; those references are replaced consistently.
RECURSED_SEQUENCES = frozenset(
    {
        "ContentSequence",
        "ReferencedImageSequence",
        "ReferencedPerformedProcedureStepSequence",
        "ReferencedStudySequence",
        "SourceImageSequence",
    }
)
# No kind of file requires a value of these; a birth date is never moved like other dates.
EMPTIED_KEYWORDS = frozenset({"OperatorsName", "PatientBirthDate"})
REMOVED_KEYWORDS = frozenset(
    {
        "DataSetTrailingPadding",
        "DigitalSignaturesSequence",
        "IconImageSequence",
        "MACParametersSequence",
        "GPSTimeStamp",  # no option of ours keeps it
        "OriginalAttributesSequence",  # the values that somebody replaced
        "PatientBirthTime",
    }
)


class Action(enum.StrEnum):
    """What becomes of one element; the letters are those of table E.1-1."""

    REMOVE = "X"
    EMPTY = "Z"
    REPLACE = "D"
    MAP_UID = "U"
    CLEAN = "C"
    KEEP = "K"


def action_of(tag: int, keyword: str) -> Action:
    """Tell what to do with a public element."""
    if tag >> 16 in range(0x5000, 0x5020) or tag >> 16 in range(0x6000, 0x6020):
        return Action.REMOVE  # curves and overlays, drawn text among them
    if keyword in REMOVED_KEYWORDS:
        return Action.REMOVE
    if keyword in CLEANED_KEYWORDS:
        return Action.CLEAN
    if keyword in EMPTIED_KEYWORDS:
        return Action.EMPTY
    if keyword in PATIENT_CHARACTERISTICS or keyword in RECURSED_SEQUENCES:
        return Action.KEEP
    return _table().get(tag, Action.KEEP)


@cache
def _table() -> dict[int, Action]:
    import importlib

    lists = importlib.import_module(TABLES)
    action_by_list = {
        "X_TAGS": Action.REMOVE,
        "Z_TAGS": Action.EMPTY,
        "X_Z_TAGS": Action.EMPTY,
        "D_TAGS": Action.REPLACE,
        "Z_D_TAGS": Action.REPLACE,
        "X_D_TAGS": Action.REPLACE,
        "X_Z_D_TAGS": Action.REPLACE,
        "X_Z_U_STAR_TAGS": Action.KEEP,
        "U_TAGS": Action.MAP_UID,
    }
    # Entries of four numbers are masks for curves and overlays, which are removed as groups.
    return {
        tag[0] << 16 | tag[1]: action
        for name, action in action_by_list.items()
        for tag in getattr(lists, name)
        if len(tag) == 2
    }
