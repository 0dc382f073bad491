"""What a machine wrote is no place for a model's guesses; what a person wrote into it is."""

from __future__ import annotations

import pytest

from edge_agent.anonymize.alignment import align
from edge_agent.anonymize.machine_text import machine_text


def closed(text: str) -> list[str]:
    return [text[start:end] for start, end in machine_text(align(text))]


@pytest.mark.parametrize(
    ("line", "open_part"),
    [
        ("(0008,0070) LO [SIEMENS]      # 8, 1 Manufacturer", None),
        ("(0018, 0015) Body Part Examined      CS: 'HEAD'", None),
        ("(0008,1030) LO [CT for Smith]    # 12, 1 StudyDescription", "CT for Smith"),
        ("(0020, 4000) Image Comments    LT: 'seen by Ann'", "seen by Ann"),
        ("(0018,1030) LO [Brain Jones]  # 12, 1 ProtocolName", "Brain Jones"),
        ("(0009,1001) LO [Ann Smith]   # private", "Ann Smith"),
        ("OBX|2|TX|IMP||Discussed with Ann||||||F", "Discussed with Ann"),
        ("NTE|1||call Ann|", "call Ann"),
        ("PV1|1|I|ICU^2^1", None),
        ("Manufacturer: Acme Imaging", None),
        ("No tag stands here: Ann Smith", "No tag stands here: Ann Smith"),
    ],
)
def test_only_what_a_person_wrote_stays_open(line: str, open_part: str | None) -> None:
    left = line
    for stretch in closed(line):
        left = left.replace(stretch, "\0", 1)
    assert left.strip("\0") == (open_part or "")


def test_a_field_behind_a_kept_one_stays_open() -> None:
    assert closed("Model: Revolution EVO, Patient: Ann") == ["Model: Revolution EVO"]
