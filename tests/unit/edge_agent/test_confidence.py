"""Features and default confidence of a local answer."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from edge_agent.confidence import assess, features
from edge_agent.flow import LabelScore, LocalAnswer
from partition.calibration.scorer import Probe, Scorer
from partition.task import Task, TaskKind

CLASSIFY = Task(name="triage", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
GENERATE = Task(name="summary", kind=TaskKind.GENERATE)
ANSWER = LocalAnswer(
    text="abnormal",
    token_log_probabilities=(math.log(0.6), math.log(0.9)),
    label_scores=(
        LabelScore(label="normal", log_probability=math.log(0.18)),
        LabelScore(label="abnormal", log_probability=math.log(0.54)),
    ),
    first_entropy=0.7,
    num_input_tokens=100,
    num_output_tokens=2,
)


def test_classify_features_follow_their_definitions() -> None:
    found = dict(features(ANSWER, CLASSIFY))
    assert found["opt_max"] == pytest.approx(0.75)
    assert found["opt_margin"] == pytest.approx(0.5)
    assert found["opt_mass"] == pytest.approx(0.72)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert found["opt_entropy"] == pytest.approx(entropy)
    assert found["opt_log_odds"] == pytest.approx(math.log(3))
    assert (found["label_0"], found["label_1"]) == (0.0, 1.0)
    assert found["log_odds_label_0"] == 0.0
    assert found["log_odds_label_1"] == pytest.approx(math.log(3))
    assert found["lp_min"] == pytest.approx(math.log(0.6))
    assert found["gnll"] == pytest.approx(-math.log(0.54))
    assert found["first_entropy"] == 0.7
    assert found["truncated"] == 0.0


def test_generate_has_no_label_features() -> None:
    assert not [name for name, _ in features(ANSWER, GENERATE) if "label" in name or "opt" in name]


def test_default_probability_is_the_models_own() -> None:
    assert assess(ANSWER, CLASSIFY, None).probability == pytest.approx(0.75)
    assert assess(ANSWER, CLASSIFY, None).score == pytest.approx(math.log(3))
    assert assess(ANSWER, GENERATE, None).probability == pytest.approx(math.sqrt(0.54))


def test_default_score_still_ranks_where_probability_rounds_to_one() -> None:
    def answer(gap: float) -> LocalAnswer:
        return replace(
            ANSWER,
            label_scores=(
                LabelScore(label="normal", log_probability=-gap),
                LabelScore(label="abnormal", log_probability=0.0),
            ),
        )

    sure, surer = assess(answer(50.0), CLASSIFY, None), assess(answer(60.0), CLASSIFY, None)
    assert sure.probability == surer.probability == 1.0
    assert sure.score < surer.score


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_broken_numbers_never_look_sure(value: float) -> None:
    scores = tuple(LabelScore(label=label, log_probability=value) for label in CLASSIFY.labels)
    broken = replace(ANSWER, label_scores=scores, token_log_probabilities=(value,))
    for task in (CLASSIFY, GENERATE):
        confidence = assess(broken, task, None)
        assert confidence.probability < 1e-9
        assert all(math.isfinite(number) for _, number in confidence.features)


def test_empty_answer_is_not_sure() -> None:
    empty = replace(ANSWER, label_scores=(), token_log_probabilities=())
    assert assess(empty, GENERATE, None).probability < 1e-9


def test_scorer_and_probe_are_used() -> None:
    scorer = Scorer(
        task="triage",
        names=("opt_max", "probe"),
        mean=(0.0, 0.0),
        scale=(1.0, 1.0),
        coefficients=(1.0, 10.0),
        missing_coefficients=(0.0, -5.0),
        intercept=0.0,
        probe=Probe(coefficients=(1.0, 1.0), intercept=0.5),
    )
    assert assess(ANSWER, CLASSIFY, scorer).score == pytest.approx(0.75 - 5.0)
    seen = replace(ANSWER, hidden=(0.25, 0.25))
    assert assess(seen, CLASSIFY, scorer).score == pytest.approx(0.75 + 10.0)
    assert dict(assess(seen, CLASSIFY, scorer).features)["probe"] == 1.0


def test_device_needs_no_scipy_nor_scikit_learn() -> None:
    code = "import edge_agent.confidence, sys; print([m for m in ('scipy', 'sklearn', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
