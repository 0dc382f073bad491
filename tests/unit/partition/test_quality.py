"""Quality figures against published vectors and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partition.calibration.display_calibration import fit_display, fit_isotonic, fit_platt
from partition.calibration.quality import (
    apgr,
    aurc,
    auroc,
    brier,
    calibration_error,
    cloud_share_for,
    excess_aurc,
    quality_by_cloud_share,
)
from partition.calibration.scorer import Isotonic, Platt


def test_aurc_published_vector() -> None:
    right = ~np.array([0, 0, 1, 0, 1], dtype=bool)
    score = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert aurc(score, right) == pytest.approx(0.196667, abs=1e-6)
    assert excess_aurc(score, right) == pytest.approx(0.066667, abs=1e-6)


def test_apgr_published_vector() -> None:
    shares = np.array([0, 0.25, 0.5, 0.75, 1])
    quality = np.array([0.60, 0.70, 0.75, 0.78, 0.80])
    assert apgr(shares, quality) == pytest.approx(0.6625)
    assert cloud_share_for(shares, quality, 0.5) == 0.25
    assert cloud_share_for(shares, quality, 0.8) == 0.75
    assert math.isnan(apgr(shares, quality[::-1]))


def test_auroc_equals_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    score = rng.integers(0, 10, 300).astype(float)
    right = rng.random(300) < score / 10
    assert auroc(score, right) == pytest.approx(roc_auc_score(right, score))
    assert math.isnan(auroc(score, np.ones(300, dtype=bool)))


def test_cloud_share_curve_ends_at_both_models() -> None:
    rng = np.random.default_rng(0)
    edge, cloud = (rng.random(200) < rate for rate in (0.6, 0.9))
    shares, quality = quality_by_cloud_share(
        rng.random(200), edge.astype(float), cloud.astype(float)
    )
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert quality[0] == pytest.approx(edge.mean())
    assert quality[-1] == pytest.approx(cloud.mean())


def test_perfect_and_constant_probabilities() -> None:
    right = np.array([True] * 50 + [False] * 50)
    assert calibration_error(right.astype(float), right) == 0.0
    assert brier(right.astype(float), right) == 0.0
    assert brier(np.full(100, 0.5), right) == 0.25


def test_few_labels_get_platt_many_isotonic() -> None:
    rng = np.random.default_rng(1)
    for n, kind in ((300, Platt), (4000, Isotonic)):
        score = rng.normal(size=n)
        right = rng.random(n) < 1 / (1 + np.exp(-(2 * score + 0.5)))
        display = fit_display(score, right)
        assert isinstance(display, kind)
        fresh = rng.normal(size=4000)
        truth = rng.random(4000) < 1 / (1 + np.exp(-(2 * fresh + 0.5)))
        stated = np.array([display.probability(value) for value in fresh])
        assert calibration_error(stated, truth) < 0.04
        assert np.all(np.diff([display.probability(value) for value in np.sort(fresh)]) >= 0)


def test_platt_never_claims_certainty_and_never_falls() -> None:
    score = np.linspace(-1, 1, 50)
    display = fit_platt(score, np.ones(50, dtype=bool))
    assert 0.9 < display.probability(0.0) < 1.0
    falling = fit_platt(score, score < 0)
    assert falling.slope == 0.0


def test_isotonic_follows_scikit_learn_between_blocks() -> None:
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(2)
    score = rng.normal(size=2000)
    right = rng.random(2000) < 1 / (1 + np.exp(-score))
    ours = fit_isotonic(score, right)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, right)
    stated = np.array([ours.probability(value) for value in score])
    assert np.mean(np.abs(stated - theirs.predict(score))) < 0.03
