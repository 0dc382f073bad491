"""Reading and writing labelled answers; the input is hostile."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.calibration.records import (
    Record,
    RecordWriter,
    cluster_of,
    read_records,
    to_json_line,
)
from partition.errors import CalibrationError

GOOD = {"id": "r-1", "score": 0.5, "correct": True}


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_least_record(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path / "r.jsonl", GOOD))
    assert record == Record(id="r-1", score=0.5, loss=0.0)
    assert record.line == 1


def test_all_keys_survive_a_round_trip(tmp_path: Path) -> None:
    record = Record(
        id="r-1",
        score=1 / 3,
        loss=0.25,
        task="triage",
        split="dev",
        cluster="patient-1",
        slices=(("device", "7"), ("site", "north")),
        features=(("opt_max", 0.1), ("gnll", 2.0)),
        hidden=(0.5, -70000.0),
        setup="a" * 64,
        cloud_correct=False,
        probability=0.9,
    )
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write(record)
    with RecordWriter(path) as writer:
        writer.write(record)
    assert read_records(path) == (record, record)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0]),
    st.text(min_size=1),
)
def test_any_line_reads_back_equal(score: float, loss: float, name: str) -> None:
    record = Record(id="x", score=score, loss=loss, task=name[:50], cluster=name[:50])
    document = json.loads(to_json_line(record))
    assert document["score"] == score
    assert document["correct"] is (loss == 0.0)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"id": "a", "score": 0.5}, "correct"),
        ({"id": "a", "correct": True}, "score"),
        ({"score": 0.5, "correct": True}, "id"),
        (GOOD | {"score": "0.5"}, "score"),
        (GOOD | {"score": True}, "score"),
        (GOOD | {"score": None}, "score"),
        (GOOD | {"correct": "yes"}, "correct"),
        (GOOD | {"correct": 1}, "correct"),
        (GOOD | {"loss": 0.5}, "loss"),
        (GOOD | {"split": "train"}, "split"),
        (GOOD | {"splitt": "dev"}, "splitt"),
        (GOOD | {"setup": "short"}, "setup"),
        (GOOD | {"id": ""}, "id"),
        (GOOD | {"hidden": "%%%"}, "hidden"),
        (GOOD | {"hidden": "AAA="}, "hidden"),
        (GOOD | {"hidden": "AADAfw=="}, "hidden"),  # NaN
        (GOOD | {"features": {"a": "b"}}, "features.a"),
        ({"id": "a", "score": 0.5, "loss": 1.5}, "loss"),
    ],
)
def test_wrong_line_is_named_by_line_and_key(tmp_path: Path, line: object, key: str) -> None:
    path = write(tmp_path / "r.jsonl", GOOD, GOOD, line)
    with pytest.raises(CalibrationError, match=rf"line 3.*'{key}'"):
        read_records(path)


@pytest.mark.parametrize(
    "text", ["{", "[1]", "null", '"x"', '{"id": "a", "score": NaN, "correct": true}', "\ufeff{}"]
)
def test_broken_json_names_the_line_and_no_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + text.replace("x", "SECRET") + "\n")
    with pytest.raises(CalibrationError, match="line 3") as caught:
        read_records(path)
    assert "SECRET" not in str(caught.value)


def test_editors_byte_order_mark_and_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "score": 1, "correct": true}\r\n')
    assert read_records(path) == (Record(id="1", score=1.0, loss=0.0),)


def test_infinite_score_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "score": 1e999, "correct": true}\n')
    with pytest.raises(CalibrationError, match="line 1, key 'score'"):
        read_records(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"id": "\xff\xfe"}\n')
    with pytest.raises(CalibrationError, match="line 1"):
        read_records(path)


def test_empty_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n\n")
    with pytest.raises(CalibrationError, match="no records"):
        read_records(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_records(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(("key", "value"), [("task", "t"), ("split", "dev"), ("setup", "a" * 64)])
def test_keys_for_all_lines_or_for_none(tmp_path: Path, key: str, value: str) -> None:
    path = write(tmp_path / "r.jsonl", GOOD | {key: value}, GOOD)
    with pytest.raises(
        CalibrationError, match=f"line 2, key '{key}': missing here but given in line 1"
    ):
        read_records(path)


def test_writer_refuses_what_reader_would(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="score"):
        to_json_line(Record(id="a", score=float("nan"), loss=0.0))
    with pytest.raises(CalibrationError, match="closed"):
        RecordWriter(tmp_path / "r.jsonl").write(Record(id="a", score=0.0, loss=0.0))


def test_near_duplicates_share_a_keyed_cluster() -> None:
    key = b"k" * 32
    first = cluster_of("Heart size is normal. 12/03/2020", key)
    assert cluster_of("heart size is NORMAL, 13/04/2021.", key) == first
    assert cluster_of("Heart size is enlarged.", key) != first
    assert cluster_of("Heart size is normal. 12/03/2020", b"other") != first
