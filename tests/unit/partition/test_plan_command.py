"""`partition plan` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partition.cli import main
from partition.planning.planner import PRIVACY_STATEMENT
from partition.planning.profile import DeviceProfile, save_profile
from tests.plan_scenarios import CLOUD, EDGE, LAYERS, LINK

TASK = """
name = "summary"
kind = "generate"
[policy]
allow_split = {split}
may_stay_local = false
"""


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "profile.json"
    save_profile(DeviceProfile(edge=EDGE, edge_layers=LAYERS, cloud=CLOUD, link=LINK), path)
    return str(path)


def test_it_prints_every_mode_and_a_paragraph(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--profile", profile]) == 0
    out = capsys.readouterr().out
    for words in (
        "local",
        "cascade",
        "cloud",
        "verify",
        "chosen",
        "Do not split",
        "It would change if",
    ):
        assert words in out
    assert out.count("\nsplit") == 1
    assert main(["plan", "--profile", profile, "--all-cuts"]) == 0
    assert capsys.readouterr().out.count("\nsplit") == 27


def test_json_has_everything(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--profile", profile, "--json", "--round-trip-ms", "200"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["options"]) == 31
    assert document["chosen"] in {option["name"] for option in document["options"]}
    assert document["split_is_advised"] is False
    for key in (
        "ttft_s",
        "tpot_s",
        "bytes_up",
        "edge_energy_j",
        "money_usd",
        "exposure",
        "quality",
    ):
        assert all(key in option for option in document["options"])


@pytest.mark.parametrize("allowed", [True, False])
def test_the_task_decides_about_splits_and_the_statement_stands_beside_one(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: bool
) -> None:
    task = tmp_path / "task.toml"
    task.write_text(TASK.format(split=str(allowed).lower()))
    assert main(["plan", "--profile", profile, "--task", str(task)]) == 0
    out = capsys.readouterr().out
    assert (PRIVACY_STATEMENT in out) is allowed
    assert ("refused: the task does not allow a split" in out) is not allowed
    assert "refused: the device may not answer this task alone" in out


def test_a_wrong_profile_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "profile.json"
    path.write_text("{}")
    assert main(["plan", "--profile", str(path)]) == 1
    assert "profile.json" in capsys.readouterr().err
    assert main(["plan"]) == 2
