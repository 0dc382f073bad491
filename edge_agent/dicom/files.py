"""De-identification of whole DICOM files (PS3.15 Annex E), for operators who let files leave the device.

Pixels first, because the header says which rule they fall under; then every dataset of the tree, however deep. UIDs and
the patient's pseudonym come from an HMAC under the device's secret: the same over all files and restarts, so that
references still resolve, and meaningless without the secret. Dates of one patient move back by one number of whole
weeks, so that intervals and weekdays stay. Last, no value that the header knew may stand in what is left.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.anonymize.placeholders import is_placeholder
from edge_agent.dicom.identifiers import MAX_NESTING, STANDARD_ROOT, known_values
from edge_agent.dicom.pixels import PixelRule, clean_pixels, load_rules
from edge_agent.dicom.profile import (
    CLEAN_PIXEL_DATA,
    EMPTIED_KEYWORDS,
    METHODS,
    REMOVED_KEYWORDS,
    REPLACEMENT,
    Action,
    action_of,
)
from edge_agent.dicom.reader import PARSE_ERRORS, BoundedFile, silence_pydicom
from edge_agent.errors import InputError, OutputError
from edge_agent.flow import Entity

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

MIN_SECRET_BYTES = 16
MAX_FILE_BYTES = 1 << 30
MAX_SHIFT_WEEKS = 520
OLDEST_AGE_YEARS = 89  # HIPAA Safe Harbor: older people are "90 or over"
IMPLEMENTATION_UID = "2.25.104353527363206243526237325193178276013"
# UIDs that name kinds of things, not things; a maker's private SOP class is one of them.
_KIND_UIDS = ("SOPClassUID", "TransferSyntaxUID", "CodingSchemeUID", "ContextUID")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_FREE_TEXT = frozenset({"LT", "ST", "UC", "UT"})
_SHORT_TEXT = frozenset({"AE", "CS", "LO", "SH"})
# Inside a sequence that is to be replaced these stay: references, codes of the standard and whole numbers.
_FORMAL = frozenset({"CS", "SL", "SS", "UI", "UL", "US"})
# What stands for a value that must stay one: an element that its kind of file requires may not be empty.
_DUMMIES: dict[str, str | bytes] = {
    **dict.fromkeys(sorted(_FREE_TEXT | _SHORT_TEXT), REPLACEMENT),
    "AS": "000Y",
    "DS": "0",
    "IS": "0",
    "UR": "urn:anonymized",
    **dict.fromkeys(("OB", "OW"), b"\0\0"),
}


def deidentify_file(
    source: Path,
    folder: Path,
    *,
    secret: bytes,
    scrub_text: Callable[[str], str],
    rules: tuple[PixelRule, ...] | None = None,
) -> Path:
    """Write a de-identified copy of one file into a folder, under a name made of its new UID.

    Raises:
        InputError: The file is none, is damaged, or may not leave; the message tells neither its name nor a value.
        OutputError: The copy cannot be written.
    """
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    silence_pydicom()
    dataset: Dataset
    try:
        if source.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"the DICOM file is larger than {MAX_FILE_BYTES >> 20} MiB; split it")
        with source.open("rb") as file:
            guarded = BoundedFile(file, max_bytes=MAX_FILE_BYTES)
            dataset = pydicom.dcmread(guarded)
            guarded.check_end()
    except (InvalidDicomError, BytesLengthException, *PARSE_ERRORS) as error:
        kind = type(error).__name__
    else:
        clean = deidentify(dataset, secret=secret, scrub_text=scrub_text, rules=rules)
        return _write(clean, folder)
    raise InputError(
        f"the DICOM file cannot be opened, or is damaged or cut off ({kind}); export it again"
    )


def deidentify(
    dataset: Dataset,
    *,
    secret: bytes,
    scrub_text: Callable[[str], str],
    rules: tuple[PixelRule, ...] | None = None,
) -> Dataset:
    """Make a de-identified copy of one dataset; the original stays as it is.

    Args:
        dataset: Read as a whole, with its file meta information.
        secret: The device's, at least 16 bytes; whoever has it can tell pseudonyms of guessed identifiers.
        scrub_text: Takes identifiers out of free text; text on which it raises is removed.
        rules: Where pictures carry text; None: the rules that are shipped.

    Raises:
        InputError: The dataset is damaged, holds an encapsulated document, or its pictures may carry text.
        ValueError: ``secret`` is too short.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret must have at least {MIN_SECRET_BYTES} bytes")
    silence_pydicom()
    if "EncapsulatedDocument" in dataset:
        raise InputError("the file holds an encapsulated document; only its text can leave")
    try:
        clean = copy.deepcopy(dataset)
        masked = clean_pixels(clean, load_rules() if rules is None else rules)
        patient = str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or "")
        known = {
            value.value.casefold()
            for value in known_values(dataset)
            if value.entity is not Entity.DATE
            and len(value.value) >= 4
            and not is_placeholder(value.value)
        }
        work = _Deidentifier(
            secret=secret, patient=patient, scrub_text=scrub_text, known=frozenset(known)
        )
        work.clean(clean, MAX_NESTING)
        work.finish(clean, masked=masked)
    except PARSE_ERRORS as error:
        kind = type(error).__name__
    else:
        return clean
    raise InputError(f"the DICOM file is damaged ({kind}); export it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deidentifier:
    """The rules for one patient's datasets."""

    secret: bytes = field(repr=False)
    patient: str = field(repr=False)
    scrub_text: Callable[[str], str]
    known: frozenset[str] = field(repr=False)  # what must not be left, casefolded

    def clean(self, dataset: Dataset, levels: int, *, dummy: bool = False) -> None:
        """Treat every element of a dataset and of those inside it, in place.

        Args:
            dataset: Changed in place.
            levels: Of nesting that are still allowed.
            dummy: Whether this is inside a sequence that is to be replaced: its form stays, none of its values does.
        """
        if levels == 0:
            raise ValueError("sequences nested without end")
        for element in list(dataset):
            if element.tag.is_private or element.VR == "UN":
                del dataset[element.tag]
                continue
            action = action_of(element.tag, element.keyword)
            if dummy and element.VR not in _FORMAL and action is not Action.REMOVE:
                action = Action.REPLACE
            self._treat(dataset, element, action)
            if element.VR == "SQ" and element.tag in dataset:
                for item in element.value or ():
                    self.clean(item, levels - 1, dummy=action is Action.REPLACE)

    def finish(self, dataset: Dataset, *, masked: bool) -> None:
        """Write the pseudonym, what was done, and file meta information without a past."""
        from pydicom import Dataset as NewDataset
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import UID

        pseudonym = "ANON-" + self._digest(b"patient", self.patient)[:8].hex().upper()
        dataset.PatientName = pseudonym
        dataset.PatientID = pseudonym
        if "PatientBirthDate" in dataset:
            dataset.PatientBirthDate = ""
        codes = []
        for value, meaning in (*METHODS, *((CLEAN_PIXEL_DATA,) if masked else ())):
            item = NewDataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
            codes.append(item)
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "Tandem, PS3.15 Annex E"
        dataset.DeidentificationMethodCodeSequence = codes
        dataset.LongitudinalTemporalInformationModified = "MODIFIED"
        if masked:
            dataset.BurnedInAnnotation = "NO"
        old = getattr(dataset, "file_meta", None)
        meta = FileMetaDataset()
        if old is not None and "TransferSyntaxUID" in old:
            meta.TransferSyntaxUID = old.TransferSyntaxUID
        meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
        meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
        meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
        dataset.file_meta = meta
        dataset.preamble = b"\0" * 128  # may hold anything, a TIFF header with a name among it

    def _treat(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        match element.VR:
            case "SQ":
                if action is Action.REMOVE:
                    del dataset[element.tag]
                elif action is Action.EMPTY:
                    element.value = []
            case "DA" | "DT":
                if element.keyword in REMOVED_KEYWORDS:
                    del dataset[element.tag]
                elif element.keyword in EMPTIED_KEYWORDS:
                    element.value = ""
                else:
                    element.value = self._each(element, self._shifted)
            case "TM":
                if element.keyword in REMOVED_KEYWORDS:
                    del dataset[element.tag]
            case "UI":
                if action is Action.REMOVE:
                    del dataset[element.tag]
                else:
                    is_kind = element.keyword.endswith(_KIND_UIDS)
                    element.value = self._each(element, _kind_uid if is_kind else self.uid)
            case "PN":  # by its representation: also where the table does not list it
                if action is Action.REMOVE:
                    del dataset[element.tag]
                else:
                    element.value = REPLACEMENT if action is Action.REPLACE else ""
            case "AS" if action is Action.KEEP:
                element.value = self._each(element, _capped_age)
            case _:
                self._treat_other(dataset, element, action)

    def _treat_other(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        if action is Action.REPLACE and element.VR in _DUMMIES:
            element.value = _DUMMIES[element.VR]
        elif action in (Action.REMOVE, Action.REPLACE) or element.VR in ("AS", "UR"):
            del dataset[element.tag]
        elif action is Action.EMPTY:
            element.value = None
        elif action is Action.CLEAN or element.VR in _FREE_TEXT:
            element.value = self._each(element, self._scrubbed)
        if element.tag in dataset and element.VR in _FREE_TEXT | _SHORT_TEXT:
            text = str(element.value or "").casefold()
            if any(value in text for value in self.known):
                element.value = REPLACEMENT if element.VR in _FREE_TEXT else None

    def uid(self, value: str) -> str:
        """Map one UID: ``2.25.`` and 128 bits of HMAC; those of the standard stay."""
        if not value or (value.startswith(STANDARD_ROOT) and _UID.fullmatch(value)):
            return value
        return f"2.25.{int.from_bytes(self._digest(b'uid', value)[:16], 'big')}"

    def _shifted(self, value: str) -> str:
        """Move a DA or the date of a DT back; what is neither becomes empty."""
        digits = value.strip().replace(".", "") if value.count(".") == 2 else value.strip()
        day = digits[:8]
        if not (len(day) == 8 and day.isascii() and day.isdigit()):
            return ""
        weeks = (
            1 + int.from_bytes(self._digest(b"weeks", self.patient)[:8], "big") % MAX_SHIFT_WEEKS
        )
        try:
            moved = date(int(day[:4]), int(day[4:6]), int(day[6:])) - timedelta(weeks=weeks)
        except (ValueError, OverflowError):
            return ""
        return f"{moved:%Y%m%d}".rjust(8, "0") + digits[8:]

    def _scrubbed(self, value: str) -> str:
        try:
            return self.scrub_text(value)
        except Exception:  # fail closed, whatever the anonymizer raises: the text goes
            return ""

    def _each(self, element: DataElement, change: Callable[[str], str]) -> Any:
        if element.value is None:
            return None
        if element.VM > 1:
            return [change(str(value)) for value in element.value]
        return change(str(element.value))

    def _digest(self, purpose: bytes, value: str) -> bytes:
        message = purpose + b"\0" + value.encode("utf-8", "surrogatepass")
        return hmac.new(self.secret, message, hashlib.sha256).digest()


def _kind_uid(value: str) -> str:
    return value if _UID.fullmatch(value) else ""


def _capped_age(value: str) -> str:
    if len(value) == 4 and value[3] == "Y" and value[:3].isdecimal():
        return "090Y" if int(value[:3]) > OLDEST_AGE_YEARS else value
    return value if len(value) == 4 and value[3] in "DWM" and value[:3].isdecimal() else ""


def _write(dataset: Dataset, folder: Path) -> Path:
    name = str(dataset.get("SOPInstanceUID") or "2.25.0")  # a UID by now, so no path
    path = folder / f"{name}.dcm"
    staging = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with staging.open("wb") as file:
                dataset.save_as(file, enforce_file_format=True)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{folder}: the copy cannot be written ({error.strerror}); choose another folder"
        ) from error
    except PARSE_ERRORS as error:
        kind = type(error).__name__
    else:
        return path
    raise InputError(f"the DICOM file is damaged ({kind}); export it again")
