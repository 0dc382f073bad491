"""Stretches that a machine wrote: tags, keys and coded values of header dumps and messages. A model's guess says nothing there.

The rules read them by their structure; what a person wrote into them (descriptions, comments, observation texts) stays open
to the models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText

_DICOM_LINE = re.compile(
    r"^[ >]*[(\[]?([0-9a-f]{4}),? ?([0-9a-f]{4})[)\]]? +([^\n]*)$", re.MULTILINE
)
_VALUE = re.compile(r"(?:^|[^a-z])[a-z]{2}:? ?(?:\[([^\]\n]*)\]|'([^'\n]*)')")
# Elements whose value is a code, a number or a maker's name; every other one may hold a person's words.
_CODED_GROUPS = ("0002", "0018", "0028", "0054", "7fe0")
_CODED = frozenset(
    [
        "00080005",
        "00080008",
        "00080016",
        "00080060",
        "00080061",
        "00080064",
        "00080068",
        "00080070",
        "00081090",
        "00081140",
        "00081150",
        "00080100",
        "00080102",
        "00100040",
        "00101010",
        "00101020",
        "00101030",
        "00200011",
        "00200012",
        "00200013",
        "00200020",
        "00200032",
        "00200037",
        "00200060",
        "00201041",
    ]
)
_WRITTEN = frozenset(["00181030", "00184000", "00181400", "00180010", "0018a003"])
_SEGMENT = re.compile(
    r"^(MSH|EVN|PID|PD1|NK1|PV1|PV2|ORC|OBR|OBX|NTE|GT1|IN1|IN2|AL1|DG1|TXA|SPM|FT1|ROL|MRG|ZDS)\|[^\n]*$",
    re.MULTILINE,
)
_TEXT_FIELD = {"OBX": 5, "NTE": 3}
_KEPT = re.compile(
    r"(?:^|(?<=[\n;,|]))[ \"]*(?:manufacturer(?:'?s)?(?: model)?(?: name)?|model(?: name)?|modality|body part(?: examined)?|patient position|photometric interpretation|convolution kernel|kernel|"
    r"software(?: versions?)?|firmware|image type|scan options|sequence name|scanning sequence|transfer syntax|specific character set|fabricante|modelo|modalidade|parte do corpo)[\"]? ?[:=] ?([^\n;,|]{1,60})"
)


def machine_text(document: MatchText) -> list[tuple[int, int]]:
    """Stretches of the text for matching, in order."""
    folded = document.folded
    found: list[tuple[int, int]] = []
    if "(" in folded or "[" in folded or ">" in folded:
        found.extend(_dicom(folded))
    if "|" in folded:
        found.extend(_hl7(document.text))
    found.extend(match.span() for match in _KEPT.finditer(folded))
    found.sort()
    return found


def _dicom(folded: str) -> Iterator[tuple[int, int]]:
    for line in _DICOM_LINE.finditer(folded):
        tag = line[1] + line[2]
        if tag in _CODED or (line[1] in _CODED_GROUPS and tag not in _WRITTEN):
            yield line.span()
            continue
        value = _VALUE.search(folded, line.start(3) - 1, line.end())
        if value is None:
            yield line.start(), line.start(3)
            continue
        group = 1 if value[1] is not None else 2
        yield line.start(), value.start(group)
        yield value.end(group), line.end()


def _hl7(text: str) -> Iterator[tuple[int, int]]:
    for match in _SEGMENT.finditer(text):
        number = _TEXT_FIELD.get(match[1])
        if number is None:
            yield match.span()
            continue
        start = match.start()
        for _ in range(number):
            bar = text.find("|", start, match.end())
            if bar < 0:
                break
            start = bar + 1
        else:
            end = text.find("|", start, match.end())
            yield match.start(), start
            if end >= 0:
                yield end, match.end()
            continue
        yield match.span()
