"""The portable scorer: arithmetic, missing features, file format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from partition.calibration.scorer import Isotonic, Platt, Probe, Scorer, sigmoid
from partition.errors import CalibrationError

SCORER = Scorer(
    task="triage",
    names=("opt_max", "len_in"),
    mean=(0.5, 2.0),
    scale=(0.25, 1.0),
    coefficients=(2.0, -1.0),
    missing_coefficients=(-3.0, 0.5),
    intercept=0.25,
    display=Platt(slope=0.5, offset=1.0),
    num_records=10,
)


def test_score_is_the_logit_of_standardised_features() -> None:
    assert SCORER.score([("opt_max", 1.0), ("len_in", 3.0), ("unknown", 9.0)]) == 0.25 + 4.0 - 1.0
    assert SCORER.probability([("opt_max", 1.0), ("len_in", 3.0)]) == sigmoid(0.5 * 3.25 + 1.0)


@pytest.mark.parametrize("features", [[("len_in", 2.0)], [("len_in", 2.0), ("opt_max", math.nan)]])
def test_missing_feature_counts_as_mean_plus_indicator(features: list[tuple[str, float]]) -> None:
    assert SCORER.score(features) == 0.25 - 3.0


@pytest.mark.parametrize(
    "display",
    [Platt(slope=0.5, offset=1.0), Isotonic(scores=(-1.0, 1.0), probabilities=(0.2, 0.9))],
)
def test_file_gives_back_an_equal_scorer(tmp_path: Path, display: Platt | Isotonic) -> None:
    probe = Probe(coefficients=(1.0, 2.0), intercept=-1.0)
    scorer = Scorer(
        task="t",
        names=("a",),
        mean=(0.1,),
        scale=(0.3,),
        coefficients=(1 / 3,),
        missing_coefficients=(0.0,),
        intercept=0.0,
        display=display,
        probe=probe,
    )
    scorer.save(tmp_path / "s.json")
    assert Scorer.load(tmp_path / "s.json") == scorer
    assert Scorer.load(tmp_path / "s.json").sha256 == scorer.sha256
    assert probe.logit((1.0, 1.0)) == 2.0
    assert probe.logit((1.0,)) is None


def test_isotonic_is_flat_outside_its_knots() -> None:
    display = Isotonic(scores=(-1.0, 1.0), probabilities=(0.2, 0.8))
    assert [display.probability(score) for score in (-9.0, 0.0, 9.0)] == [0.2, 0.5, 0.8]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", [0.0, 1.0]),
        ("mean", [0.0]),
        ("coefficients", ["x", 1.0]),
        ("names", ["a", "a"]),
        ("display", {"kind": "isotonic", "scores": [1.0, 0.0], "probabilities": [0.1, 0.2]}),
        ("display", {"kind": "isotonic", "scores": [0.0, 1.0], "probabilities": [0.3, 0.2]}),
        ("surprise", 1),
    ],
)
def test_damaged_file_is_refused_by_key(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "s.json"
    SCORER.save(path)
    document = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match="train the scorer again"):
        Scorer.load(path)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="--train-scorer"):
        Scorer.load(tmp_path / "none.json")
