"""The sample requests: each can be prepared, and each listed identifier stands in its sample."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from edge_agent.flow import Prepared, Request
from edge_agent.preprocess import prepare
from partition.task import Message, Role, Task, load_tasks

ROOT = Path(__file__).parents[3]
SAMPLES = [
    json.loads(line)
    for line in (ROOT / "samples/requests.jsonl").read_text(encoding="utf-8").splitlines()
]
IDENTIFIERS: dict[str, list[str]] = json.loads(
    (ROOT / "samples/identifiers.json").read_text(encoding="utf-8")
)
TASKS = load_tasks(ROOT / "edge_agent/tasks")


def prepared(sample: dict[str, object]) -> Prepared:
    task: Task = TASKS[str(sample["task"])]
    request = Request(id=str(sample["id"]), task=task.name)
    match sample:
        case {"text": str(text)}:
            request = replace(request, text=text)
        case {"dicom": str(name)}:
            path = get_testdata_file(name.removeprefix("pydicom:"), download=False)
            assert isinstance(path, str)
            request = replace(request, dicom=Path(path))
        case {"messages": list(turns)}:
            messages = tuple(Message(role=Role(t["role"]), text=t["content"]) for t in turns)
            request = replace(request, messages=messages)
    return prepare(request, task)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["id"])
def test_a_sample_can_be_prepared_and_holds_its_identifiers(sample: dict[str, object]) -> None:
    ready = prepared(sample)
    text = "\n".join(message.text for message in ready.messages)
    assert text.strip()
    known = {value.value for value in ready.known}
    identifiers = IDENTIFIERS[str(sample["id"])]
    assert identifiers
    for identifier in identifiers:
        assert identifier in text or identifier in known


def test_the_samples_are_many_and_various() -> None:
    ids = [sample["id"] for sample in SAMPLES]
    assert len(set(ids)) == len(ids) == len(IDENTIFIERS)
    kinds = {key: sum(key in sample for sample in SAMPLES) for key in ("text", "messages", "dicom")}
    assert kinds["text"] >= 28
    assert (kinds["messages"], kinds["dicom"]) == (2, 4)
    languages = {
        language: sum(i.startswith(language) for i in ids) for language in ("en", "pt", "zh")
    }
    assert languages == {"en": 18, "pt": 5, "zh": 5}
    assert {sample["task"] for sample in SAMPLES} == set(TASKS)


def test_no_identifier_is_so_short_that_chance_could_write_it() -> None:
    for values in IDENTIFIERS.values():
        for value in values:
            assert len(value.encode()) >= 4
