"""A file in, a file out: one line each, in order, whatever the lines hold."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.batch import run_batch
from edge_agent.errors import InputError, OutputError
from edge_agent.flow import Answer, Confidence, LocalResult, Route, Usage
from edge_agent.jsonl import parse_line, to_bytes
from partition.calibration.records import cluster_of, read_records


class SlowFirst:
    """An agent whose early answers come last, and that refuses empty text."""

    default_task = "cxr-triage"

    def __init__(self):
        self.lock = threading.Lock()
        self.asked = []

    def ask(self, request):
        with self.lock:
            self.asked.append(request.reference)
            pause_s = 0.02 / len(self.asked)
        time.sleep(pause_s)
        if not request.text:
            raise InputError("the request is empty; say something")
        confidence = Confidence(probability=0.8, score=1.4, features=(("opt_max", 0.8),))
        return Answer(
            request_id=request.id,
            text="normal",
            route=Route.LOCAL,
            reason="sure",
            confidence=0.8,
            model="f" * 64,
            usage=Usage(),
            latency_ms={"total": 1.0},
            sent_bytes=0,
            num_replaced={},
            local=LocalResult(text="normal", confidence=confidence, hidden=(0.5, -2.0)),
        )

    def setup_sha256(self, task):
        return "a" * 64

    def cluster_of(self, text):
        return cluster_of(text, b"key of this device")

    def label_of(self, task, label):
        return label if label in ("normal", "abnormal") else ""

    def was_learned(self, task, cluster_key):
        return cluster_key == f"cluster {self.cluster_of('learned from')}"


def run(folder: Path, lines: list[bytes], **options):
    (folder / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    agent = SlowFirst()
    summary = run_batch(
        agent, task="cxr-triage", source=folder / "in.jsonl", output=folder / "out.jsonl", **options
    )
    found = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    return agent, summary, found


def line(reference, text="clear", **more):
    return json.dumps({"id": reference, "text": text, **more}).encode()


def test_output_is_in_step_with_input(tmp_path):
    hostile = [b"not json", b"[]", b"{}", b'{"id": {}}', b"\xff\xfe", b"[" * 100_000, line("e", "")]
    _, summary, found = run(
        tmp_path, [line(i) for i in range(20)] + hostile + [line("z")], parallel=4
    )
    assert [item["id"] for item in found] == [
        *range(20),
        None,
        None,
        None,
        None,
        None,
        None,
        "e",
        "z",
    ]
    assert [("error" in item) for item in found] == [False] * 20 + [True] * 7 + [False]
    assert (summary.num_lines, summary.num_errors, summary.routes) == (28, 7, {"LOCAL": 21})


def test_errors_name_the_line_and_never_its_content(tmp_path):
    _, _, found = run(tmp_path, [b'{"id": "1", "text": ["John Smith"]}', b'{"text": "John Smith"'])
    for number, item in enumerate(found, start=1):
        assert f"line {number}" in item["error"]
        assert "John" not in item["error"]


def test_output_keys_are_those_of_the_contract(tmp_path):
    _, _, found = run(tmp_path, [line("a")])
    assert {
        "id",
        "answer",
        "route",
        "reason",
        "confidence",
        "model",
        "latency_ms",
        "usage",
        "sent_bytes",
    } <= set(found[0])


def test_resume_goes_on_behind_the_last_whole_line(tmp_path):
    lines = [line(i) for i in range(6)]
    run(tmp_path, lines[:3])
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(whole + b'{"id": 3, "answ')  # the process was killed here
    agent, summary, found = run(tmp_path, lines, resume=True)
    assert [item["id"] for item in found] == list(range(6))
    assert sorted(agent.asked) == ["3", "4", "5"]
    assert summary.num_skipped == 3


def test_full_disk_is_one_sentence(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(line(1) + b"\n")
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        run_batch(
            SlowFirst(), task="cxr-triage", source=tmp_path / "in.jsonl", output=Path("/dev/full")
        )


def test_records_are_what_calibration_reads(tmp_path):
    lines = [
        line(1, label="normal"),
        line(2, label="abnormal"),
        line(3),
        line(4, "", label="normal"),
    ]
    run(tmp_path, lines, record=tmp_path / "records.jsonl")
    records = read_records(tmp_path / "records.jsonl")
    assert [(r.id, r.loss, r.score, r.task) for r in records] == [
        ("1", 0.0, 1.4, "cxr-triage"),
        ("2", 1.0, 1.4, "cxr-triage"),
    ]
    assert records[0].setup == "a" * 64
    assert (
        records[0].cluster == records[1].cluster != ""
    )  # the same text twice is one piece of evidence
    assert records[0].hidden == ()


def test_hidden_states_are_recorded_only_when_asked_for(tmp_path):
    run(
        tmp_path,
        [line(1, label="normal")],
        record=tmp_path / "records.jsonl",
        record_hidden=True,
    )
    assert read_records(tmp_path / "records.jsonl")[0].hidden == (0.5, -2.0)


def test_records_tell_what_the_label_head_knows_already(tmp_path):
    lines = [
        line("a", text="Learned from.", label="normal"),
        line("b", label="abnormal"),
        line("c", label="Mr Smith"),
    ]
    run(tmp_path, lines, record=tmp_path / "records.jsonl", record_hidden=True)
    records = read_records(tmp_path / "records.jsonl")
    assert [record.was_learned for record in records] == [True, False, False]
    assert [record.truth for record in records] == ["normal", "abnormal", ""]  # no text but labels


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_a_request_or_a_clear_error(raw):
    try:
        parse_line(raw, 1).to_request("t", Path())
    except InputError as error:
        assert "line 1" in str(error)


def test_lone_surrogates_of_an_id_do_not_break_the_output():
    assert json.loads(to_bytes({"id": "\ud800x"})) == {"id": "?x"}
