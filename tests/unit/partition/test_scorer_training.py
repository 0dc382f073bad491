"""Training a scorer: it learns, says so honestly, and equals scikit-learn's own arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partition.calibration.calibration import divide
from partition.calibration.quality import auroc, calibration_error
from partition.calibration.records import Record
from partition.calibration.scorer import Scorer
from partition.calibration.scorer_training import rescored, train, train_on_dev
from partition.errors import CalibrationError


def draw(n: int, seed: int = 0, *, with_hidden: bool = False) -> tuple[Record, ...]:
    """Two features tell a little; the hidden state tells more, in one of 20 directions."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=20)
    made = []
    for index in range(n):
        first, second = rng.normal(size=2)
        hidden = rng.normal(size=20)
        logit = 1 + first + second + (hidden @ direction) * with_hidden
        right = rng.random() < 1 / (1 + np.exp(-logit))
        made.append(
            Record(
                id=f"r{index}",
                score=first,
                loss=float(not right),
                task="t",
                features=(("first", first), ("second", second), ("constant", 1.0)),
                hidden=tuple(hidden.tolist()) if with_hidden else (),
            )
        )
    return tuple(made)


def quality(records: tuple[Record, ...]) -> float:
    right = np.array([record.is_right for record in records])
    return auroc(np.array([record.score for record in records]), right)


def test_scorer_beats_its_best_feature_on_fresh_records() -> None:
    scorer = train(draw(1000)).scorer
    fresh = draw(2000, seed=1)
    assert quality(rescored(fresh, scorer)) > quality(fresh) + 0.05
    assert scorer.task == "t"
    assert scorer.num_records == 1000
    coefficients = dict(zip(scorer.names, scorer.coefficients, strict=True))
    assert abs(coefficients["constant"]) < 1e-6


def test_stated_probabilities_are_honest_on_fresh_records() -> None:
    scorer = train(draw(1500)).scorer
    fresh = draw(4000, seed=1)
    stated = np.array([scorer.probability(record.features) for record in fresh])
    assert calibration_error(stated, np.array([record.is_right for record in fresh])) < 0.03


def test_probe_on_hidden_states_adds_what_features_lack() -> None:
    records, fresh = draw(800, with_hidden=True), draw(2000, seed=1, with_hidden=True)
    blind = train(tuple(replace(record, hidden=()) for record in records)).scorer
    seeing = train(records).scorer
    assert blind.probe is None
    assert seeing.probe is not None
    assert "probe" in seeing.names
    assert quality(rescored(fresh, seeing)) > quality(rescored(fresh, blind)) + 0.1


def test_out_of_fold_scores_are_no_better_than_fresh_ones() -> None:
    records = draw(150, with_hidden=True)
    training = train(records)
    held_out = tuple(
        replace(record, score=score)
        for record, score in zip(records, training.out_of_fold, strict=True)
    )
    fresh = rescored(draw(3000, seed=1, with_hidden=True), training.scorer)
    seen = rescored(records, training.scorer)
    assert abs(quality(held_out) - quality(fresh)) < 0.06
    assert quality(seen) > quality(held_out)


def test_test_records_do_not_shape_the_scorer() -> None:
    division = divide(draw(400))
    scorer, scored = train_on_dev(division)
    flipped = replace(
        division, test=tuple(replace(item, loss=1 - item.loss) for item in division.test)
    )
    assert train_on_dev(flipped)[0] == scorer
    assert [item.score for item in scored.test] == [
        scorer.score(item.features) for item in division.test
    ]


def test_training_repeats_exactly() -> None:
    assert train(draw(120)) == train(draw(120))


def test_missing_features_become_an_indicator() -> None:
    records = tuple(
        replace(record, features=record.features[:1]) if index % 3 == 0 else record
        for index, record in enumerate(draw(300))
    )
    scorer = train(records).scorer
    assert np.isfinite(scorer.score(()))
    assert any(scorer.missing_coefficients)


def test_what_cannot_be_learned_is_said() -> None:
    records = draw(100)
    with pytest.raises(CalibrationError, match="10 of each"):
        train(tuple(replace(record, loss=0.0) for record in records))
    with pytest.raises(CalibrationError, match="no `features`"):
        train(tuple(replace(record, features=()) for record in records))
    with pytest.raises(CalibrationError, match="key 'features'"):
        rescored((replace(records[0], features=(), line=7),), train(records).scorer)


def draw_choices(n: int, seed: int = 0, *, labels: int = 2) -> tuple[Record, ...]:
    """The model chooses labels almost by lot; its hidden state knows the right one. So no plane parts right from wrong."""
    rng = np.random.default_rng(seed)
    directions = 1.5 * np.random.default_rng(7).normal(size=(labels, 12))
    made = []
    for index in range(n):
        truth, chosen = (int(value) for value in rng.integers(labels, size=2))
        made.append(
            Record(
                id=f"{seed}-{index}",
                score=0.0,
                loss=float(truth != chosen),
                task="t",
                truth=f"label {truth}",
                features=tuple(
                    (f"label_{place}", float(place == chosen)) for place in range(labels)
                ),
                hidden=tuple((directions[truth] + rng.normal(size=12)).tolist()),
            )
        )
    return tuple(made)


@pytest.mark.parametrize("labels", [2, 3])
def test_a_probe_on_the_right_label_knows_what_no_plane_can(labels: int) -> None:
    known, fresh = draw_choices(800, labels=labels), draw_choices(2000, 1, labels=labels)
    on_labels = train(known).scorer
    on_outcomes = train([replace(record, truth="") for record in known]).scorer
    assert on_labels.label_probe is not None
    assert on_outcomes.label_probe is None
    assert quality(rescored(fresh, on_labels)) > 0.9
    assert quality(rescored(fresh, on_labels)) > quality(rescored(fresh, on_outcomes)) + 0.1


def test_label_probe_survives_its_file_and_leaves_out_what_it_does_not_know(tmp_path: Path) -> None:
    scorer = train(draw_choices(400)).scorer
    (tmp_path / "s.json").write_text(scorer.to_json())
    assert Scorer.load(tmp_path / "s.json") == scorer
    probe = scorer.label_probe
    assert probe is not None
    hidden = draw_choices(1)[0].hidden
    assert probe.logit(hidden, 0) == pytest.approx(-probe.logit(hidden, 1))  # type: ignore[operator]
    assert probe.logit(hidden, 2) is None
    assert probe.logit(hidden[:-1], 0) is None
    assert scorer.completed((("label_0", 0.0),), hidden) == (("label_0", 0.0),)


def test_a_label_that_was_never_chosen_rightly_is_told_by_the_other_of_two() -> None:
    chosen_zero = [record for record in draw_choices(600) if ("label_0", 1.0) in record.features]
    probe = train(chosen_zero).scorer.label_probe
    assert probe is not None
    assert sorted(probe.places) == [0, 1]
    of_three = [
        record for record in draw_choices(900, labels=3) if ("label_0", 1.0) in record.features
    ]
    probe = train(of_three).scorer.label_probe
    assert probe is not None
    assert sorted(probe.places) == [-1, -1, 0]
