"""The text of a DICOM file, and every identifier that its header knows. Pixels are never read.

What becomes text: the header elements that the task names, the content tree of a structured report, and an
encapsulated document of a text type (no PDF). Everything else stays in the file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.dicom.identifiers import IDENTIFYING_KEYWORDS, known_values
from edge_agent.dicom.reader import PARSE_ERRORS, BoundedFile, silence_pydicom
from edge_agent.errors import ConfigError, InputError
from edge_agent.flow import KnownValue

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

MAX_HEADER_BYTES = (
    16 << 20
)  # read from a file; the largest enhanced multi-frame headers have a third of it
MAX_CONTENT_DEPTH = 32
MAX_CONTENT_ITEMS = 10_000
TEXT_REPRESENTATIONS = frozenset(
    [
        "AE",
        "AS",
        "CS",
        "DA",
        "DS",
        "DT",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "ST",
        "TM",
        "UC",
        "UI",
        "UR",
        "UT",
        "US",
        "SS",
        "UL",
        "SL",
        "FL",
        "FD",
    ]
)
_CONTENT_KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "ContentSequence",
    "EncapsulatedDocument",
    "EncapsulatedDocumentLength",
    "MIMETypeOfEncapsulatedDocument",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomReport:
    """What one file says in words, and who it is about."""

    text: str = field(repr=False)
    known: tuple[KnownValue, ...]


def read_report(source: Path | bytes, fields: tuple[str, ...] = ()) -> DicomReport:
    """Read the text and the identifiers of one DICOM file.

    Args:
        source: The file or its content.
        fields: Keywords of header elements that become lines of the text, such as ``StudyDescription``.

    Raises:
        InputError: The file cannot be read, is damaged or cut off, is too large, or holds no text; the message tells
            neither its name nor any value of it.
        ConfigError: ``fields`` names what is no header element, or one without text.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    _check_fields(fields)
    try:
        dataset = _read(source, (*_CONTENT_KEYWORDS, *IDENTIFYING_KEYWORDS, *fields))
        lines = [*_header_lines(dataset, fields), *_content_lines(dataset)]
        if document := _encapsulated_text(dataset):
            lines.append(document)
        text = "\n".join(lines)
        known = known_values(dataset)
    except (InvalidDicomError, BytesLengthException, *PARSE_ERRORS) as error:
        # Not chained: the messages of pydicom quote values.
        kind = type(error).__name__
        is_missing = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    else:
        if not text.strip():
            raise InputError(
                "the DICOM file holds no text, and its pixels are never read; "
                "name header elements under [dicom] in the task file, or send a structured report"
            )
        return DicomReport(text=text, known=known)
    if is_missing:
        raise InputError(f"the DICOM file cannot be opened ({kind}); give a file that can be read")
    raise InputError(f"the DICOM file is damaged, cut off or none at all ({kind}); export it again")


def _check_fields(fields: tuple[str, ...]) -> None:
    from pydicom.datadict import dictionary_VR

    for keyword in fields:
        try:
            representation = dictionary_VR(keyword)
        except (KeyError, ValueError):
            representation = ""
        if not TEXT_REPRESENTATIONS.issuperset(representation.split(" or ")):
            raise ConfigError(
                f"{keyword} is no DICOM header element with text; correct fields under [dicom] in the task file"
            )


def _read(source: Path | bytes, keywords: tuple[str, ...]) -> Dataset:
    """Parse the named top-level elements and whatever is inside them."""
    import pydicom

    silence_pydicom()
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        guarded = BoundedFile(file, max_bytes=MAX_HEADER_BYTES)
        dataset = pydicom.dcmread(
            guarded,
            stop_before_pixels=True,
            specific_tags=list(dict.fromkeys(keywords)),
        )
        guarded.check_end()
    return dataset


def _header_lines(dataset: Dataset, fields: tuple[str, ...]) -> list[str]:
    lines = []
    for keyword in fields:
        if keyword in dataset:
            element = dataset[keyword]
            value = _value_text(element)
            if element.VR in TEXT_REPRESENTATIONS and value:
                lines.append(f"{element.name}: {value}")
    return lines


def _value_text(element: DataElement) -> str:
    """The value as people write it: ages in words and dates with hyphens, so that the anonymizer knows them."""
    value = element.value
    if value is None:
        return ""
    values = list(value) if element.VM > 1 and not isinstance(value, str | bytes) else [value]
    texts = [str(item).strip() for item in values]
    if element.VR == "AS":
        texts = [_age_text(text) for text in texts]
    elif element.VR == "DA":
        texts = [_date_text(text) for text in texts]
    return ", ".join(text for text in texts if text)


def _age_text(age: str) -> str:
    """Write ``093Y`` as ``93 years``."""
    units = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}
    if len(age) == 4 and age[:3].isdecimal() and age[3] in units:
        return f"{int(age[:3])} {units[age[3]]}"
    return age


def _date_text(date: str) -> str:
    """Write ``20040119``, and ``2004.01.19`` of older files, as ``2004-01-19``."""
    digits = date.replace(".", "")
    if len(digits) == 8 and digits.isdecimal():
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    return date


def _content_lines(dataset: Dataset) -> list[str]:
    """Write the content tree of a structured report (PS3.3 C.17.3) as indented lines, in document order."""
    lines: list[str] = []
    waiting = [(item, 0) for item in reversed(_items(dataset, "ContentSequence"))]
    num_items = 0
    while waiting:
        item, depth = waiting.pop()
        num_items += 1
        if depth > MAX_CONTENT_DEPTH or num_items > MAX_CONTENT_ITEMS:
            raise ValueError("a report without end")
        name, value = _code_meaning(item, "ConceptNameCodeSequence"), _content_value(item)
        if value or item.get("ValueType") == "CONTAINER":
            line = ": ".join(part for part in (name, value) if part)
            if line:
                lines.append("  " * depth + line)
        children = _items(item, "ContentSequence")
        waiting.extend((child, depth + 1) for child in reversed(children))
    return lines


def _content_value(item: Dataset) -> str:
    """The value of one content item; references to images, waveforms and coordinates have none."""
    match item.get("ValueType"):
        case "TEXT":
            return str(item.get("TextValue", "")).strip()
        case "CODE":
            return _code_meaning(item, "ConceptCodeSequence")
        case "NUM":
            measured = _items(item, "MeasuredValueSequence")
            if not measured:
                return ""
            unit = _items(measured[0], "MeasurementUnitsCodeSequence")
            # The unit's code is UCUM: "mm" and not "millimeter".
            return f"{measured[0].get('NumericValue', '')} {unit[0].get('CodeValue', '') if unit else ''}".strip()
        case "PNAME":
            return str(item.get("PersonName", "")).strip()
        case "DATE":
            return _date_text(str(item.get("Date", "")).strip())
        case "TIME":
            return str(item.get("Time", "")).strip()
        case "DATETIME":
            return str(item.get("DateTime", "")).strip()
        case _:
            return ""


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    sequence = dataset.get(keyword)
    return list(sequence) if sequence else []


def _code_meaning(item: Dataset, keyword: str) -> str:
    codes = _items(item, keyword)
    return str(codes[0].get("CodeMeaning", "")).strip() if codes else ""


def _encapsulated_text(dataset: Dataset) -> str:
    """The text of an encapsulated document, markup taken away; empty for PDF and other binary kinds."""
    kind = str(dataset.get("MIMETypeOfEncapsulatedDocument", "")).partition(";")[0].strip().lower()
    raw = dataset.get("EncapsulatedDocument")
    if not isinstance(raw, bytes) or not (kind.startswith("text/") or kind.endswith("+xml")):
        return ""
    length = dataset.get("EncapsulatedDocumentLength")
    if isinstance(length, int) and 0 < length <= len(raw):
        raw = raw[:length]
    text = raw.decode("utf-8", errors="replace").strip("\0 \n")
    if kind == "text/plain":
        return text
    words = _Words()
    words.feed(text)
    words.close()
    return "\n".join(words.lines)


class _Words(HTMLParser):
    """Collects what stands between tags; knows no entities of a document's own, so none can expand."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style"} and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden and (line := " ".join(data.split())):
            self.lines.append(line)
