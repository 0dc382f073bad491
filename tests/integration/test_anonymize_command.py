"""``edge-agent anonymize``: one line out for each line in, and nothing of a text in any message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SECRET = "Quillfeather"
MAIN = "import sys; from edge_agent.cli import main; sys.exit(main())"
LINES = [
    json.dumps({"id": "a", "text": f"Paciente: Dra. {SECRET}, CPF 529.982.247-25"}),
    "{no json " + SECRET,
    json.dumps({"id": "c", "text": ""}),
    json.dumps({"id": "d", "text": 7, "note": SECRET}),
    json.dumps({"id": "e", "text": f"Dra. {SECRET} \ud800 x", "language": "pt"}),
    json.dumps({"id": "f", "text": SECRET, "language": "xx"}),
    json.dumps({"id": "g", "text": f"Dra. {SECRET}. " + "x " * 500_000}),
    json.dumps([SECRET]),
    json.dumps({"id": 9, "text": "[PERSON_1] e PERSON_2"}),
]


def test_every_line_has_its_answer(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes("\n".join(LINES).encode() + b"\n\xff\xfe" + SECRET.encode() + b"\n")
    command = [
        sys.executable,
        "-c",
        MAIN,
        "anonymize",
        "--offline",
        "--language",
        "pt",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--input", source, "--output", target],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(LINES) + 1
    assert [row.get("id") for row in rows] == ["a", 2, "c", "d", "e", "f", "g", 8, 9, 10]
    good = {0, 2, 4, 8}
    for index, row in enumerate(rows):
        assert SECRET not in json.dumps(row)
        assert ("error" in row) == (index not in good), row
        assert ("text" in row) == (index in good)
    for index in good:
        text = json.loads(LINES[index])["text"]
        rebuilt, position = "", 0
        for span in rows[index]["spans"]:
            rebuilt += text[position : span["start"]] + span["surrogate"]
            position = span["end"]
        assert rebuilt + text[position:] == rows[index]["text"]
    assert json.loads(done.stdout) == {"lines": 10, "failed": 6, "output": str(target)}


def test_a_missing_input_is_one_sentence(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        MAIN,
        "anonymize",
        "--input",
        tmp_path / "none",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
