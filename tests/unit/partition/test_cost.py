"""The cost model against the table of formulas, written out by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from partition.errors import ProfileError
from partition.extend.activations import Codec, row_bytes
from partition.planning.cost import (
    MESSAGE_BYTES,
    Mode,
    Routing,
    Workload,
    cascade,
    cloud,
    local,
    predict_all,
    split,
    verify,
)
from partition.planning.profile import DeviceProfile, load_profile, save_profile
from tests.plan_scenarios import CLOUD, EDGE, LAYERS, LINK, scenario

S, M, R, U = 355, 64, 0.05, 1.25e6
CONTEXT = S + M / 2


def per_layer(a: float, b: float, c: float) -> float:
    return a + b * S + c * S * S


def test_local() -> None:
    got = local(scenario())
    ttft = 24 * per_layer(1e-4, 3e-5, 1e-8) + 4e-3
    tpot = 24 * (1.2e-3 + 1e-7 * CONTEXT) + 4e-3
    assert (got.ttft_s, got.tpot_s) == pytest.approx((ttft, tpot))
    assert got.total_s == pytest.approx(ttft + 63 * tpot)
    assert got.edge_energy_j == pytest.approx(11 * got.total_s)
    assert (got.bytes_up, got.money_usd, got.cloud_s, got.exposure) == (0, 0, 0, 0)
    assert got.edge_memory_bytes == 140_000_000 + 24 * (15_000_000 + 512 * (S + M)) + 50_000_000


def test_cloud_pays_the_round_trip_once() -> None:
    got = cloud(scenario())
    up = 4.5 * S + MESSAGE_BYTES
    c_prefill = 28 * per_layer(1e-4, 1e-4, 1e-8) + 2e-2
    c_token = 28 * (7e-3 + 1e-7 * CONTEXT) + 2e-2
    assert got.ttft_s == pytest.approx(R + up / U + c_prefill)
    assert got.tpot_s == pytest.approx(c_token)
    assert got.cloud_s == pytest.approx(c_prefill + 63 * c_token)
    assert got.bytes_up == pytest.approx(up)
    assert got.edge_energy_j == pytest.approx(2 * up / U + 1 * got.total_s)
    assert got.money_usd == pytest.approx(1e-3 * got.cloud_s + (up + got.bytes_down) / 1e9)


def test_a_thin_downlink_paces_the_stream() -> None:
    thin = replace(LINK, down_bytes_per_s=100.0)
    assert cloud(scenario(link=thin)).tpot_s == pytest.approx(94.5 / 100)


def test_cascade_waits_for_the_whole_local_answer() -> None:
    ours, theirs, got = local(scenario()), cloud(scenario()), cascade(scenario())
    h, s = 0.05, 0.8
    expected = h * theirs.ttft_s + (1 - h) * ours.total_s + (1 - h - s) * theirs.ttft_s
    assert got.ttft_s == pytest.approx(expected)
    assert got.bytes_up == pytest.approx(0.2 * theirs.bytes_up)
    assert got.exposure == pytest.approx(0.2)
    assert got.money_usd == pytest.approx(0.2 * theirs.money_usd)
    assert got.edge_energy_j == pytest.approx(
        0.95 * ours.edge_energy_j + 0.2 * theirs.edge_energy_j
    )


def test_verify_has_the_clouds_first_token_and_f_for_the_rest() -> None:
    got = verify(scenario())
    assert got.ttft_s == pytest.approx(R + (3 * S + MESSAGE_BYTES) / U + CLOUD.prefill(S))
    t_d = EDGE.decode(CONTEXT)
    times = {}
    for gamma in range(1, 17):
        tokens = sum(0.83**i for i in range(gamma + 1))
        seconds = gamma * t_d + 0.22 + 0.012 * gamma + R + (MESSAGE_BYTES + 3 * (gamma + 1)) / U
        times[gamma] = seconds / tokens
    best = min(times, key=times.__getitem__)
    assert got.draft_tokens == best
    assert times[best] < got.tpot_s < 1.02 * times[best]  # the last round of an answer is cut
    rounds = 63 / sum(0.83**i for i in range(best + 1))
    assert got.cloud_s == pytest.approx(CLOUD.prefill(S) + rounds * (0.22 + 0.012 * best), rel=0.03)


@pytest.mark.parametrize("k", [1, 9, 27])
def test_split_pays_the_round_trip_for_every_token(k: int) -> None:
    got = split(scenario(), k)
    w = row_bytes(Codec.INT8, 1536)
    ends = 1e-3 + 2e-2
    layer = per_layer(1e-4, 1e-4, 1e-8)
    assert got.ttft_s == pytest.approx(
        k * layer + (S * w + MESSAGE_BYTES) / U + R + (28 - k) * layer + ends
    )
    edge, remote = 3e-3 + 1e-7 * CONTEXT, 7e-3 + 1e-7 * CONTEXT
    assert got.tpot_s == pytest.approx(
        k * edge + (w + MESSAGE_BYTES) / U + R + (28 - k) * remote + ends
    )
    assert got.bytes_up == pytest.approx((S + M - 1) * w + M * MESSAGE_BYTES)
    assert got.cloud_s == pytest.approx((28 - k) * (layer + 63 * remote) + M * 2e-2)
    assert got.exposure == cloud(scenario()).exposure


def test_split_is_affine_in_the_cut() -> None:
    totals = [split(scenario(), k).total_s for k in range(1, 28)]
    steps = [b - a for a, b in itertools.pairwise(totals)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_every_mode_and_every_cut_is_predicted() -> None:
    modes = [prediction.mode for prediction in predict_all(scenario())]
    assert modes == [Mode.LOCAL, Mode.CASCADE, Mode.CLOUD, Mode.VERIFY] + [Mode.SPLIT] * 27
    assert [p.mode for p in predict_all(scenario(cloud=None))] == [Mode.LOCAL]
    assert len(predict_all(scenario(edge_layers=None))) == 4


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Workload(prompt_tokens=0, output_tokens=1)
    with pytest.raises(ValueError, match="do not overlap"):
        Routing(local_share=0.8, gated_share=0.3)
    with pytest.raises(ValueError, match="cut inside"):
        split(scenario(), 28)
    with pytest.raises(ValueError, match="needs a cloud"):
        cloud(scenario(link=None))


PROFILE = DeviceProfile(machine="two cores", edge=EDGE, edge_layers=LAYERS, cloud=CLOUD, link=LINK)


def test_a_profile_is_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save_profile(PROFILE, path)
    assert load_profile(path) == PROFILE


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("edge", "num_layers"), 0, "edge.num_layers"),
        (("edge", "secret"), "hunter2", "edge.secret"),
        (("link", "up_bytes_per_s"), 0, "link.up_bytes_per_s"),
        (("cloud", "layer_decode_s"), [1], "cloud.layer_decode_s"),
        (("schema_version",), 99, "schema_version"),
        (("power",), "hunter2", "power"),
    ],
)
def test_a_wrong_profile_names_file_and_key(
    tmp_path: Path, path: tuple[str, ...], value: object, words: str
) -> None:
    file = tmp_path / "profile.json"
    save_profile(PROFILE, file)
    document = json.loads(file.read_text())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(document))
    with pytest.raises(ProfileError, match=words) as caught:
        load_profile(file)
    assert "profile.json" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_profile_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="edge-agent profile"):
        load_profile(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"{nan")
    with pytest.raises(ProfileError, match=r"bad\.json"):
        load_profile(tmp_path / "bad.json")
