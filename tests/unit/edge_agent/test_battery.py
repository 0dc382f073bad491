"""The battery as Linux tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.battery import read_charge


def supply(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir()
    for key, text in files.items():
        (folder / name / key).write_text(text + "\n")


def test_a_battery_that_is_used_tells_its_charge(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online="0")
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity="17")
    assert read_charge(tmp_path) == pytest.approx(0.17)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_on_mains_it_is_full(tmp_path: Path, status: str) -> None:
    supply(tmp_path, "BAT0", type="Battery", status=status, capacity="17")
    assert read_charge(tmp_path) == 1.0


@pytest.mark.parametrize("capacity", ["", "many"])
def test_what_says_nothing_is_no_battery(tmp_path: Path, capacity: str) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity=capacity)
    assert read_charge(tmp_path) == 1.0
    assert read_charge(tmp_path / "none") == 1.0
