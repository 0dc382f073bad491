"""A DICOM dataset that holds every element of PS3.15 Table E.1-1 with a value nobody may read, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_TABLE = Path(__file__).with_name("_ps315_e1_1.txt")
NAME = "Quillfeather"
_VALUES: dict[str, Any] = {
    "PN": f"{NAME}^Ottoline", "AE": NAME.upper(), "CS": NAME.upper(), "SH": NAME, "LO": NAME, "ST": f"seen by {NAME}", "LT": f"seen by {NAME}",
    "UT": f"seen by {NAME}", "UC": f"seen by {NAME}", "DA": "19840317", "DT": "19840317101112", "TM": "101112", "AS": "041Y", "IS": "471147",
    "DS": "471147", "UR": f"https://{NAME.lower()}.example", "US": 4711, "SS": 4711, "UL": 471147, "SL": 471147, "FL": 4711.5, "FD": 4711.5,
    "OB": NAME.encode(), "OW": NAME.encode(), "UN": NAME.encode(), "OF": NAME.encode(), "OD": NAME.encode() + b"1234", "OL": NAME.encode(), "UV": 471147,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: the basic profile's code, and those of the options that the profile of this product claims."""

    tag: int
    basic: str
    descriptors: str
    structured: str
    dates: str
    characteristics: str

    def allows(self, outcome: str, representation: str, *, options: bool) -> bool:
        """Whether the standard lets an element end so.

        Args:
            outcome: ``absent``, ``empty``, ``changed`` or ``kept``.
            representation: The element's VR; a time of day is right as it stands when dates move by whole days.
            options: Whether the options count, or the basic profile alone.
        """
        allowed = {
            "X": {"absent"}, "Z": {"empty", "changed"}, "D": {"changed"}, "U": {"changed"}, "X/Z": {"absent", "empty", "changed"},
            "X/D": {"absent", "changed"}, "X/Z/D": {"absent", "empty", "changed"}, "Z/D": {"empty", "changed"}, "X/Z/U*": {"absent", "empty", "changed"},
        }[self.basic]  # fmt: skip
        if options:
            if "C" in (self.descriptors, self.structured, self.dates, self.characteristics):
                allowed = allowed | {"changed", "empty"}
            if self.characteristics == "K" or (self.dates == "C" and representation == "TM"):
                allowed = allowed | {"kept"}
        return outcome in allowed


def rules() -> tuple[Rule, ...]:
    """The table, without the groups that repeat (curves, overlays) and private elements."""
    rows = [line.split("\t") for line in _TABLE.read_text(encoding="utf-8").splitlines()]
    found = [Rule(int(row[0], 16), *row[1:]) for row in rows if not row[0].startswith("#")]
    return tuple(rule for rule in found if _known(rule.tag))


def stuffed() -> Dataset:
    """The dataset: every element of the table at the top, and all of them again inside a sequence."""
    dataset = Dataset()
    for rule in rules():
        _put(dataset, rule.tag, levels=1)
    inner = Dataset()
    for rule in rules():
        if dictionary_VR(rule.tag) != "SQ":
            _put(inner, rule.tag, levels=0)
    item = Dataset()
    item.ReferencedSeriesSequence = [inner]
    dataset.RelatedSeriesSequence = [
        item
    ]  # no element of the table, so it stays and what is in it counts
    dataset.SOPClassUID = CTImageStorage
    dataset.PatientID = f"{NAME}-471147"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for tag in ("EncapsulatedDocument",):  # a file of its own kind, refused as a whole
        if tag in dataset:
            del dataset[tag]
        if tag in inner:
            del inner[tag]
    return dataset


def nested(dataset: Dataset) -> Dataset | None:
    """The dataset inside the sequence; None when the sequence went."""
    try:
        inner: Dataset = dataset.RelatedSeriesSequence[0].ReferencedSeriesSequence[0]
    except (AttributeError, IndexError):
        return None
    return inner


def outcomes(before: Dataset, after: Dataset) -> Iterator[tuple[Rule, str, str]]:
    """Each element of the table that was there: its rule, its VR, and what became of it."""
    for rule in rules():
        if rule.tag not in before:
            continue
        representation = before[rule.tag].VR
        if rule.tag not in after:
            yield rule, representation, "absent"
            continue
        was, now = before[rule.tag].value, after[rule.tag].value
        if representation == "SQ":
            changed = "kept" if now and NAME.lower() in str(now).lower() else "changed"
            yield rule, representation, changed if now else "empty"
        elif now is None or now == "" or now == b"" or now == []:
            yield rule, representation, "empty"
        else:
            same = now == was or NAME.lower() in str(now).lower()
            yield rule, representation, "kept" if same else "changed"


def _known(tag: int) -> bool:
    try:
        return dictionary_VR(tag) not in ("AT", "NONE")
    except KeyError:
        return False


def _put(dataset: Dataset, tag: int, *, levels: int) -> None:
    representation = dictionary_VR(tag).split(" or ")[0]
    if representation == "SQ":
        inner = Dataset()
        inner.PatientName = f"{NAME}^Ottoline"
        inner.TextValue = f"seen by {NAME}"
        dataset.add_new(tag, "SQ", [inner] if levels else [])
    elif representation == "UI":
        dataset.add_new(tag, "UI", f"1.2.826.0.1.3680043.9.7777.{tag}")
    else:
        value = _VALUES[representation]
        dataset.add_new(tag, representation, [value, value] if dictionary_VM(tag) == "2" else value)
