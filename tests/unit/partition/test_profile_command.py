"""`partition profile` on a tiny model: really built, really measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partition.cli import main
from partition.planning.profile import load_profile
from tests.tiny_models import NUM_LAYERS, write_tiny_model


def test_it_measures_both_sides_of_a_split_and_plan_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "tiny"
    write_tiny_model("qwen2", model)
    cloud, device = tmp_path / "cloud.json", tmp_path / "device.json"
    common = ["profile", "--model", str(model), "--threads", "1", "--precision", "float32"]
    assert main([*common, "--output", str(cloud)]) == 0
    assert "tokens a second" in capsys.readouterr().out
    link = ["--round-trip-ms", "50", "--up-mbit", "10", "--down-mbit", "20"]
    both = ["--cloud", str(cloud), "--split-model", str(model), "--output", str(device), "--json"]
    assert main([*common, *link, *both]) == 0
    assert json.loads(capsys.readouterr().out)["edge"]["model"] == "tiny"
    found = load_profile(device)
    assert found.cloud is not None
    assert found.edge_layers is not None
    assert found.link is not None
    assert found.edge.num_layers == found.edge_layers.num_layers == NUM_LAYERS
    assert found.edge.decode(32) > 0
    assert found.edge.verify_s is not None
    assert (found.link.round_trip_s, found.link.up_bytes_per_s) == (0.05, 1_250_000)
    assert main(["plan", "--profile", str(device), "--json", "--prompt-tokens", "30"]) == 0
    assert len(json.loads(capsys.readouterr().out)["options"]) == 4 + NUM_LAYERS - 1


def test_half_a_link_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--round-trip-ms", "50"]) == 2
    assert "--up-mbit" in capsys.readouterr().err
