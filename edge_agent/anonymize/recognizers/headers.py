"""Structure: DICOM dumps by tag, HL7 v2 by segment and field, CSV by its header line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.placeholders import is_placeholder
from edge_agent.anonymize.recognizers.labels import LABELS, Kind, label_key
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

_DICOM_LINE = re.compile(r"^[ >]*[(\[]?([0-9a-f]{4}),? ?([0-9a-f]{4})[)\]]? +(.*)$", re.MULTILINE)
_DICOM_VALUE = re.compile(
    r"(?:(?P<vr>[A-Z]{2})(?: |: ?)(?:\[(?P<bracket>[^\]\n]*)\]|'(?P<quote>[^'\n]*)'|(?P<plain>[^#\n]+))|.*?: ?'?(?P<colon>[^'\n]+))"
)
_DICOM_TAGS: dict[str, Entity | None] = {
    **dict.fromkeys(["00080050", "00100020", "00101000", "00101001x", "00200010", "00081010", "00181000", "00181002", "00181008", "00400244x", "00321055", "00321064x", "00400006x", "00401001", "00402016", "00402017", "00100021", "00380010", "00380060", "00321033x", "0040a730x", "00189004x", "00400241", "00400242", "00080055", "00020016", "00020017", "00020018", "00741000x", "00404028", "00321030x", "00101080", "00102180x", "00081052", "00100040x", "00400280x", "00081195", "00081155", "00081150x", "00200052", "0020000d", "0020000e", "00080018", "00080014", "00200200", "00083010", "00020003", "00181012x", "0018100a", "00181007x", "00184000x", "00100024x"], Entity.ID),
    **dict.fromkeys(["00100010", "00080090", "00081050", "00081060", "00081070", "00101005", "00101060", "00081048", "00081049", "00321032", "00401010", "00081080x", "00102297", "00402008", "0040a123", "0040a075", "00101001", "00700084", "00400006", "00081062", "00080092x"], Entity.PERSON),
    **dict.fromkeys(["00080080", "00081040x", "00321033x", "00402011x", "00080082", "00081041", "00400243"], Entity.ORGANIZATION),
    **dict.fromkeys(["00080081", "00101040", "00102150x", "00102152x", "00400513", "00080092"], Entity.LOCATION),
    **dict.fromkeys(["00080094", "00102154"], Entity.PHONE),
    **dict.fromkeys(["00100030", "00080020", "00080021", "00080022", "00080023", "0008002a", "00080012", "00400244", "00400250", "00380020", "00380030", "00321000", "00321010", "00321040", "00321050", "00401400x", "00102110x", "00400002", "00400004", "00181012", "00181014", "00081190x", "00081201x", "00100032x", "001021d0"], Entity.DATE),
}  # fmt: skip
_UI_STANDARD = "1.2.840.10008."
_HL7_LINE = re.compile(
    r"^(MSH|PID|NK1|PV1|PV2|OBR|ORC|OBX|GT1|IN1|IN2|PD1|AL1|DG1|EVN|TXA|SPM|ZDS|FT1|ROL|MRG)\|([^\n]*)$",
    re.MULTILINE,
)
_P, _I, _D, _L, _H, _O, _X = (
    Entity.PERSON,
    Entity.ID,
    Entity.DATE,
    Entity.LOCATION,
    Entity.PHONE,
    Entity.ORGANIZATION,
    None,
)
_HL7: dict[str, dict[int, Entity]] = {
    # Field numbers count from one after the segment's name; MSH counts its own separator as the first.
    "MSH": {2: _I, 3: _O, 4: _I, 5: _O, 6: _D, 9: _I},
    "EVN": {2: _D, 5: _P},
    "PID": {2: _I, 3: _I, 4: _I, 5: _P, 6: _P, 7: _D, 9: _P, 11: _L, 13: _H, 14: _H, 18: _I, 19: _I, 20: _I, 21: _I, 23: _L, 29: _D},
    "PD1": {3: _O, 4: _P},
    "NK1": {2: _P, 4: _L, 5: _H, 6: _H, 16: _D, 30: _P, 31: _H, 32: _L, 33: _I},
    "PV1": {5: _I, 7: _P, 8: _P, 9: _P, 17: _P, 19: _I, 44: _D, 45: _D, 50: _I},
    "MRG": {1: _I, 3: _I, 7: _P},
    "ORC": {2: _I, 3: _I, 4: _I, 9: _D, 10: _P, 11: _P, 12: _P, 14: _H, 15: _D, 21: _O, 22: _L, 23: _H},
    "OBR": {2: _I, 3: _I, 6: _D, 7: _D, 8: _D, 10: _P, 14: _D, 16: _P, 17: _H, 18: _I, 19: _I, 20: _I, 22: _D, 28: _P, 32: _P, 33: _P, 34: _P, 35: _P, 36: _D},
    "OBX": {14: _D, 16: _P, 18: _I, 19: _D, 23: _O, 24: _L, 25: _P},
    "GT1": {2: _I, 3: _P, 5: _L, 6: _H, 7: _H, 8: _D, 12: _I, 16: _O},
    "IN1": {2: _I, 3: _I, 4: _O, 5: _L, 6: _P, 7: _H, 8: _I, 10: _I, 11: _O, 12: _D, 13: _D, 14: _I, 16: _P, 18: _D, 19: _L, 36: _I, 49: _I},
    "IN2": {1: _I, 2: _I, 6: _I, 8: _I},
    "TXA": {4: _D, 5: _P, 6: _D, 9: _P, 10: _P, 11: _P, 12: _I, 14: _I, 15: _I},
    "SPM": {2: _I, 17: _D, 18: _D},
    "ZDS": {1: _I},
    "FT1": {2: _I, 4: _D, 20: _P, 21: _P},
    "ROL": {4: _P},
    "AL1": {6: _D},
    "DG1": {5: _D, 16: _P},
}  # fmt: skip
_COMPONENT = re.compile(r"[^|^~&\n\\]+")
_KIND_ENTITY = {
    Kind.NAME: Entity.PERSON, Kind.STAFF: Entity.PERSON, Kind.NUMBER: Entity.ID, Kind.CODE: Entity.ID, Kind.PLATE: Entity.ID, Kind.DATE: Entity.DATE, Kind.PHONE: Entity.PHONE,
    Kind.STREET: Entity.LOCATION, Kind.TOWN: Entity.LOCATION, Kind.POSTCODE: Entity.LOCATION, Kind.ORGANIZATION: Entity.ORGANIZATION, Kind.HOST: Entity.URL,
}  # fmt: skip
_CSV_MIN_LABELS = 2


def find_dicom_elements(document: MatchText) -> Iterator[Span]:
    """Values of a dump by pydicom or dcmdump, by tag and value representation."""
    if "," not in document.text:
        return
    for line in _DICOM_LINE.finditer(document.folded):
        value = _DICOM_VALUE.search(document.text, line.start(3), line.end(3))
        if value is None:
            continue
        group = next(
            (g for g in ("bracket", "quote", "plain", "colon") if value[g] is not None), None
        )
        if group is None:
            continue
        entity = _DICOM_TAGS.get(line[1] + line[2])
        vr = value["vr"]
        if vr == "PN":
            entity = Entity.PERSON
        elif vr in ("DA", "DT"):
            entity = Entity.DATE
        elif vr == "UI" and entity is None and line[1] not in ("0002",):
            entity = Entity.ID
        start, end = value.span(group)
        while end > start and document.text[end - 1] in " '\"]":
            end -= 1
        while start < end and document.text[start] in " '\"[":
            start += 1
        content = document.folded[start:end]
        if entity is None or is_placeholder(content) or content.startswith((_UI_STANDARD, "=")):
            continue
        yield Span(start, end, entity, Step.STRUCTURE)


def find_hl7_fields(document: MatchText) -> Iterator[Span]:
    """Identifying fields of HL7 version 2 segments."""
    if "|" not in document.text:
        return
    for line in _HL7_LINE.finditer(document.text):
        fields = _HL7.get(line[1], {})
        position = line.start(2)
        for number, field in enumerate(line[2].split("|"), start=1):
            entity = fields.get(number)
            if entity is not None and field:
                yield from _components(document, position, position + len(field), entity)
            position += len(field) + 1


def find_table_cells(document: MatchText) -> Iterator[Span]:
    """Cells of CSV lines whose header says what they are."""
    lines = document.text.split("\n")
    position = 0
    header: list[Entity | None] = []
    separator = ""
    for line in lines:
        folded = document.folded[position : position + len(line)]
        if header and separator in line and line.count(separator) >= len(header) - 1:
            yield from _cells(document, line, position, header, separator)
        else:
            header = []
            for candidate in (",", ";", "|"):
                cells = [cell.strip(' "') for cell in folded.split(candidate)]
                if len(cells) < 3 or any(any(c.isdigit() for c in cell) for cell in cells):
                    continue
                kinds = [LABELS.get(label_key(cell)) for cell in cells]
                if sum(kind is not None for kind in kinds) >= max(_CSV_MIN_LABELS, len(cells) // 2):
                    header = [_KIND_ENTITY.get(kind) if kind else None for kind in kinds]
                    separator = candidate
                    break
        position += len(line) + 1


def _cells(
    document: MatchText, line: str, position: int, header: list[Entity | None], separator: str
) -> Iterator[Span]:
    parts = re.findall(
        rf'"[^"]*"|[^{re.escape(separator)}]+|(?<={re.escape(separator)})(?={re.escape(separator)})',
        line,
    )
    offset = 0
    for entity, part in zip(header, parts, strict=False):
        found = line.find(part, offset) if part else offset
        offset = found + len(part)
        value = part.strip(' "')
        if entity is None or is_placeholder(value):
            continue
        start = position + found + part.find(value)
        yield Span(start, start + len(value), entity, Step.STRUCTURE)


def _components(document: MatchText, start: int, end: int, entity: Entity) -> Iterator[Span]:
    for match in _COMPONENT.finditer(document.text, start, end):
        value = match.group()
        folded = value.strip().lower()
        if (
            is_placeholder(folded)
            or (len(folded) < 2 and entity is not Entity.PERSON)
            or folded
            in (
                "mr",
                "ss",
                "pi",
                "dl",
                "mrn",
                "usa",
                "us",
                "prn",
                "ph",
                "cp",
                "net",
                "home",
                "work",
                "l",
                "m",
                "f",
                "md",
                "dr",
            )
        ):
            continue
        kind = entity
        if entity is Entity.PERSON and any(c.isdigit() for c in value):
            kind = Entity.ID
        if entity is Entity.LOCATION and len(folded) <= 3 and not any(c.isdigit() for c in value):
            continue  # a state
        needs_digits = entity in (Entity.PHONE, Entity.DATE) or (
            entity is Entity.ID and not (value.isupper() and len(value) > 3)
        )
        if needs_digits and not any(c.isdigit() for c in value):
            continue
        yield Span(match.start(), match.end(), kind, Step.STRUCTURE)
