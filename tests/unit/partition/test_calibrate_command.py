"""``partition calibrate`` as an operator or a script runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from partition.calibration.certificate import Certificate
from partition.calibration.records import to_json_line
from partition.calibration.scorer import Scorer
from partition.cli import main, partition
from tests.worlds import WORLD_B


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    drawn = WORLD_B.draw(np.random.default_rng(1), 2000)
    path.write_text("".join(map(to_json_line, drawn)))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(partition, ["calibrate", *map(str, arguments)])


def test_writes_the_certificate_and_says_it_in_words(records: Path, tmp_path: Path) -> None:
    output = tmp_path / "cert.json"
    done = run(
        "--records", records, "--max-error", "0.05", "--confidence", "0.95", "--output", output
    )
    assert done.exit_code == 0, done.output
    certificate = Certificate.load(output)
    assert certificate.max_error == 0.05
    assert certificate.confidence == 0.95
    assert certificate.local_share > 0.3
    assert "certified" in done.output
    assert "at most 5 % of the answers" in done.output


def test_same_records_same_bytes(records: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "1.json", tmp_path / "2.json"]
    for output in outputs:
        run("--records", records, "--max-error", "0.05", "--output", output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_json_for_machines(records: Path, tmp_path: Path) -> None:
    output = tmp_path / "cert.json"
    done = run(
        "--records",
        records,
        "--max-error",
        "0.05",
        "--output",
        output,
        "--json",
        "--try-threshold",
        "0.8",
    )
    shown = json.loads(done.stdout)
    what_if = shown.pop("what_if")
    assert shown == json.loads(output.read_text())
    assert what_if[0]["threshold"] == 0.8


def test_what_if_alone_writes_nothing(records: Path, tmp_path: Path) -> None:
    done = run("--records", records, "--max-error", "0.05", "--try-threshold", "0.8")
    assert done.exit_code == 0
    assert "what if the threshold were 0.8" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_not_certified_is_an_answer_and_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(f'{{"id": "{i}", "score": {i}, "correct": true}}\n' for i in range(20)))
    done = run("--records", path, "--max-error", "0.05", "--output", tmp_path / "c.json")
    assert done.exit_code == 0
    assert "not certified" in done.output
    assert "more labelled records" in done.output
    document = json.loads((tmp_path / "c.json").read_text())
    assert (document["status"], document["threshold"]) == ("not_certified", None)


def test_several_tasks(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    rng = np.random.default_rng(1)
    lines = [
        json.loads(to_json_line(record)) | {"task": task}
        for task in ("a", "b")
        for record in WORLD_B.draw(rng, 2000)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "c.json"
    arguments = ("--records", path, "--max-error", "0.05", "--output", output)
    assert run(*arguments).exit_code == 0
    both = [Certificate.load(output, task=task) for task in ("a", "b")]
    assert [item.task for item in both] == ["a", "b"]
    assert both[0].fingerprint != both[1].fingerprint
    assert run(*arguments, "--joint").exit_code == 0
    assert Certificate.load(output, task="a").confidence == pytest.approx(0.975)
    assert run(*arguments, "--task", "a").exit_code == 0
    assert Certificate.load(output) == both[0]
    refused = run(*arguments, "--task", "c")
    assert "no records of task 'c'" in str(refused.exception)


def test_trains_a_scorer_and_scores_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "records.jsonl"
    with path.open("w") as file:
        for index in range(1500):
            first, second = rng.normal(size=2)
            right = rng.random() < 1 / (1 + np.exp(-(2 + 2 * first + 2 * second)))
            features = {"first": first, "second": second} if index % 7 else {"first": first}
            line = {"id": str(index), "score": first, "correct": bool(right), "features": features}
            file.write(json.dumps(line) + "\n")
    plain, trained, again = (tmp_path / f"{name}.json" for name in ("plain", "trained", "again"))
    scorer = tmp_path / "scorer.json"
    arguments = ("--records", path, "--max-error", "0.1", "--output")
    assert run(*arguments, plain).exit_code == 0
    done = run(*arguments, trained, "--train-scorer", scorer)
    assert done.exit_code == 0, done.output
    assert Certificate.load(trained).local_share > Certificate.load(plain).local_share
    assert Certificate.load(trained).fingerprint != Certificate.load(plain).fingerprint
    assert Scorer.load(scorer).names == ("first", "second")
    assert run(*arguments, again, "--scorer", scorer).exit_code == 0
    assert Certificate.load(again).fingerprint == Certificate.load(trained).fingerprint


def test_wrong_usage_is_two(records: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "c.json")
    for arguments in (
        ["--records", str(records), "--max-error", "5", "--output", output],
        [
            "--records",
            str(records),
            "--max-error",
            "0.05",
            "--confidence",
            "95",
            "--output",
            output,
        ],
        ["--records", str(records), "--output", output],
        ["--records", str(tmp_path / "none"), "--max-error", "0.05", "--output", output],
        ["--records", str(records), "--max-error", "0.05"],
    ):
        assert main(["calibrate", *arguments]) == 2


def test_failure_is_one_with_one_sentence(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with records.open("a") as file:
        file.write('{"id": "x", "score": "high"}\n')
    code = main(
        [
            "calibrate",
            "--records",
            str(records),
            "--max-error",
            "0.05",
            "--output",
            str(tmp_path / "c"),
        ]
    )
    assert code == 1
    error = capsys.readouterr().err.strip()
    assert "line 2001, key 'score'" in error
    assert "\n" not in error


def test_help_needs_no_scipy() -> None:
    import subprocess
    import sys

    code = "import partition.cli, sys; partition.cli.main(['--help']); print([m for m in ('scipy', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "calibrate" in done.stdout
    assert done.stdout.strip().endswith("[]")
