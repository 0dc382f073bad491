"""Shifted dates: same writing, same weekday, same intervals, restored only where they come back exactly."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from edge_agent.anonymize.date_shift import DateShift
from edge_agent.anonymize.surrogates import SurrogateBook
from edge_agent.restore import StreamRestorer, restore
from partition.task import Policy
from tests.anonymizer_helpers import prepared, rules_only


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        ("2024-10-31", "2024-10-17"),
        ("10/31/2024", "10/17/2024"),
        ("1/05/24", "12/22/23"),
        ("20241031", "20241017"),
        ("October 31, 2024", "October 17, 2024"),
        ("05-AUG-2025", "22-JUL-2025"),
        ("7 de março de 2024", "22 de fevereiro de 2024"),
        ("2024年3月9日", "2024年2月24日"),
        ("March 3rd", None),
        ("6/3", None),
        ("13/13/2024", None),
        ("February 30, 2024", None),
        ("Mayday 1, 2024", None),
    ],
)
def test_two_weeks_earlier(value: str, moved: str | None) -> None:
    assert DateShift(weeks=2, day_first=False).shifted(value) == moved


def test_the_day_comes_first_in_portuguese() -> None:
    assert DateShift(weeks=1, day_first=True).shifted("03/04/2024") == "27/03/2024"


def test_the_offset_belongs_to_the_key() -> None:
    assert DateShift.of(b"a" * 32, day_first=False) == DateShift.of(b"a" * 32, day_first=False)
    assert 1 <= DateShift.of(b"b" * 32, day_first=False).weeks <= 520


def test_a_task_that_asks_for_it_gets_shifted_dates() -> None:
    text = "Seen 2024-10-31 and 2024-11-07, born 3/5/1950; returns March 3rd."
    request = prepared(text, language="en")
    task = dataclasses.replace(request.task, policy=Policy(dates="shift"))
    request = dataclasses.replace(request, task=task)
    anonymized, vault = rules_only().anonymize(request, book=SurrogateBook(b"k" * 32))
    sent = anonymized.messages[0].text
    assert "2024-10-31" not in sent
    assert "[DATE_1]" in sent  # what has no year cannot be shifted
    first, second = (datetime.date.fromisoformat(word.strip(",")) for word in sent.split()[1:4:2])
    assert (second - first).days == 7
    assert first.weekday() == datetime.date(2024, 10, 31).weekday()
    assert restore(sent, vault).text == text
    for size in range(1, 9):
        stream = StreamRestorer(vault)
        pieces = [stream.feed(sent[i : i + size]) for i in range(0, len(sent), size)]
        assert "".join(pieces) + stream.finish() == text
    assert restore(f"x{first.isoformat()}9", vault).text == f"x{first.isoformat()}9"
