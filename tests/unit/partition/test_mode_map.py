"""Where each mode wins: the map is the planner's own choice, and the page holds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from partition.cli import partition
from partition.planning.cost import Mode
from partition.planning.mode_map import map_modes
from partition.planning.planner import Constraints, Weights, make_plan
from partition.planning.profile import DeviceProfile, save_profile
from tests.plan_scenarios import CLOUD, EDGE, LAYERS, LINK, scenario

LEAVES = Constraints(may_stay_local=False)


def test_a_cell_is_the_plan_for_its_link() -> None:
    found = scenario()
    trips, uplinks = (0.002, 0.05, 4.0), (12_500.0, 1_250_000.0)
    drawn = map_modes(found, LEAVES, Weights(), round_trips_s=trips, uplinks_bytes_per_s=uplinks)
    for uplink, row in zip(uplinks, drawn.chosen, strict=True):
        for trip, mode in zip(trips, row, strict=True):
            link = replace(
                LINK,
                round_trip_s=trip,
                up_bytes_per_s=uplink,
                down_bytes_per_s=max(LINK.down_bytes_per_s, uplink),
            )
            plan = make_plan(replace(found, link=link), LEAVES)
            assert plan.chosen is not None
            assert plan.chosen.mode is mode
    assert drawn.modes == (Mode.CLOUD, Mode.VERIFY)  # near: verify, far: the cloud alone


def test_nothing_allowed_is_an_empty_map() -> None:
    forbidden = Constraints(may_stay_local=False, may_leave_device=False)
    drawn = map_modes(
        scenario(), forbidden, Weights(), round_trips_s=(0.1,), uplinks_bytes_per_s=(1e6,)
    )
    assert drawn.chosen == ((None,),)
    assert drawn.modes == ()


def profile(path: Path, **changes: object) -> Path:
    made = DeviceProfile(edge=EDGE, edge_layers=LAYERS, cloud=CLOUD, link=LINK)
    save_profile(replace(made, **changes), path)  # type: ignore[arg-type]
    return path


def test_the_page_stands_by_itself_and_is_the_same_again(tmp_path: Path) -> None:
    arguments = ["plan", "--profile", str(profile(tmp_path / "p.json")), "--plots"]
    pages = []
    for name in ("a.html", "b.html"):
        result = CliRunner().invoke(partition, [*arguments, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    assert pages[0].count("<svg") == 5
    assert "http-equiv" not in pages[0]
    assert "<script" not in pages[0]
    for mode in Mode:
        assert mode.value in pages[0]


def test_without_a_link_it_says_what_is_missing(tmp_path: Path) -> None:
    path = profile(tmp_path / "p.json", link=None)
    result = CliRunner().invoke(
        partition, ["plan", "--profile", str(path), "--plots", str(tmp_path / "a.html")]
    )
    assert result.exit_code == 2
    assert "a cloud and a link" in result.output
