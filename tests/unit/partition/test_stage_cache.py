"""Built stages that nobody opens go; those in use stay."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock

from edge_agent.commands.models import models
from partition.stages.stage_cache import prune_stages
from partition.stages.stage_files import build_stage_files
from partition.stages.stage_range import Precision, StageRange
from partition.weights.safetensors_folder import SafetensorsFolder
from tests.tiny_models import NUM_LAYERS, write_tiny_model

DAY_S = 86_400


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "stages").mkdir()
    return tmp_path / "stages"


def stage(cache: Path, digit: str, unused_days: float) -> Path:
    return folder_of(cache, digit * 64, unused_days)


def folder_of(cache: Path, name: str, unused_days: float) -> Path:
    folder = cache / name
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"12345")
    seconds = time.time() - unused_days * DAY_S
    os.utime(folder, (seconds, seconds))
    return folder


def test_what_was_not_opened_for_a_month_goes(cache: Path) -> None:
    old, new = stage(cache, "a", 31), stage(cache, "b", 29)
    other = folder_of(cache, "somebody-elses", 99)
    pruned = prune_stages(cache)
    assert (pruned.num_stages, pruned.freed_bytes) == (1, 5)
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_leftovers_of_a_killed_build_go_but_not_a_build_that_runs(cache: Path) -> None:
    killed, running = folder_of(cache, "building-x", 31), folder_of(cache, "building-y", 0)
    assert prune_stages(cache, unused_days=0).num_stages == 1
    assert not killed.exists()
    assert running.exists()


def test_a_stage_that_is_locked_stays(cache: Path) -> None:
    old = stage(cache, "a", 31)
    with FileLock(cache / f"{old.name}.lock"):
        assert prune_stages(cache).num_stages == 0
    assert old.exists()
    assert prune_stages(cache).num_stages == 1


def test_no_cache_is_nothing_to_prune(tmp_path: Path) -> None:
    assert prune_stages(tmp_path / "none").num_stages == 0


def test_opening_a_stage_counts_as_use_and_building_one_clears_the_others(tmp_path: Path) -> None:
    write_tiny_model("llama", tmp_path / "model")
    source, cache = SafetensorsFolder.open(tmp_path / "model"), tmp_path / "cache"

    def build(end: int) -> Path:
        layers = StageRange(start=0, end=end, num_layers=NUM_LAYERS)
        return build_stage_files(
            source, layers, precision=Precision.FLOAT32, cache_dir=cache
        ).folder

    def age(folder: Path) -> None:
        seconds = time.time() - 31 * DAY_S
        os.utime(folder, (seconds, seconds))

    used, unused = build(1), build(2)
    age(used)
    age(unused)
    assert build(1) == used
    new = build(3)
    assert used.exists()
    assert new.exists()
    assert not unused.exists()


def test_the_command_says_what_it_freed(cache: Path) -> None:
    stage(cache, "a", 8)
    arguments = ["prune", "--cache-dir", str(cache.parent), "--unused-days", "7", "--json"]
    result = CliRunner().invoke(models, arguments)
    assert result.exit_code == 0
    assert json.loads(result.output) == {"stages": 1, "freed_bytes": 5}
