"""Certificates: the guarantee in worlds whose truth is known, and the rules that make it hold."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from partition.calibration.calibration import Claim, calibrate, certify, divide, sample_of, what_if
from partition.calibration.certificate import Certificate, Procedure, Status
from partition.calibration.records import Record
from partition.calibration.threshold_search import bisection, candidates, fixed_sequence
from partition.errors import CalibrationError
from partition.fingerprint import Loss, Setup, fingerprint
from tests.worlds import WORLD_A, WORLD_B, WORLD_C, World

CLAIM = Claim(max_error=0.05, confidence=0.95)


def records(scores: list[float], losses: list[float]) -> tuple[Record, ...]:
    pairs = zip(scores, losses, strict=True)
    return tuple(Record(id=f"r{i}", score=s, loss=z) for i, (s, z) in enumerate(pairs))


def repeat(world: World, n: int, repeats: int, procedure: Procedure) -> tuple[float, float]:
    """Share of calibrations whose threshold breaks the promise, and mean local share over the oracle's."""
    rng = np.random.default_rng(2024)
    violations, shares = 0, []
    for _ in range(repeats):
        division = divide(world.draw(rng, n), dev_percent=0 if procedure is Procedure.SGR else 30)
        test = sample_of(division.test)
        if procedure is Procedure.SGR:
            passed = bisection(test, max_error=CLAIM.max_error, delta=CLAIM.delta)
        else:
            passed = fixed_sequence(
                sample_of(division.dev), test, max_error=CLAIM.max_error, delta=CLAIM.delta
            )
        if not passed:
            shares.append(0.0)
            continue
        violations += world.risk(passed[-1]) > CLAIM.max_error
        shares.append(1 - passed[-1])
    return violations / repeats, float(np.mean(shares)) / (world.oracle_share(0.05) or 1.0)


@pytest.mark.parametrize("world", [WORLD_A, WORLD_B, WORLD_C])
@pytest.mark.parametrize("procedure", list(Procedure))
def test_promise_is_broken_at_most_delta_of_the_time(world: World, procedure: Procedure) -> None:
    repeats = 120
    violations, _ = repeat(world, 1000, repeats, procedure)
    assert violations <= CLAIM.delta + 3 * math.sqrt(CLAIM.delta * (1 - CLAIM.delta) / repeats)


@pytest.mark.parametrize(("world", "least"), [(WORLD_A, 0.65), (WORLD_B, 0.80)])
def test_local_share_against_the_oracle_at_2000_records(world: World, least: float) -> None:
    violations, share = repeat(world, 2000, 120, Procedure.SPLIT_FIXED_SEQUENCE)
    assert share >= least
    assert violations <= CLAIM.delta


def test_a_threshold_with_too_many_errors_is_never_certified() -> None:
    # True risk 5.5 % everywhere: every certificate would be a broken promise.
    rng = np.random.default_rng(7)
    broken = 0
    for _ in range(200):
        drawn = records(list(rng.random(400)), list((rng.random(400) < 0.055).astype(float)))
        parts = divide(drawn)
        passed = fixed_sequence(
            sample_of(parts.dev), sample_of(parts.test), max_error=0.05, delta=0.05
        )
        broken += bool(passed)
    assert broken / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_fields_describe_the_test_records_alone() -> None:
    drawn = WORLD_B.draw(np.random.default_rng(1), 2000)
    certificate = calibrate(drawn, max_error=0.05, confidence=0.95)
    division = divide(drawn)
    assert certificate.status is Status.CERTIFIED
    accepted = [item for item in division.test if certificate.accepts(item.score)]
    assert (certificate.num_dev, certificate.num_test) == (600, 1400)
    assert certificate.n == len(accepted)
    assert certificate.errors == sum(item.loss for item in accepted)
    assert certificate.local_share == len(accepted) / 1400
    assert certificate.observed_error == certificate.errors / certificate.n
    assert certificate.error_upper_bound is not None
    assert certificate.observed_error < certificate.error_upper_bound <= 0.05
    assert certificate.local_share_low < certificate.local_share < certificate.local_share_high
    assert certificate.labels_needed is None
    stricter = certificate.stricter_thresholds
    assert list(stricter) == sorted(stricter)
    assert all(threshold > (certificate.threshold or 0) for threshold in stricter)


def test_dev_records_are_the_smallest_hashes() -> None:
    drawn = WORLD_A.draw(np.random.default_rng(1), 100)
    ranked = sorted(drawn, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest())
    assert set(divide(drawn).dev) == set(ranked[:30])
    assert set(divide(drawn, seed=1).dev) != set(ranked[:30])
    assert divide(drawn, seed=1) == divide(drawn, seed=1)


def test_test_labels_do_not_move_the_order_of_candidates() -> None:
    drawn = WORLD_A.draw(np.random.default_rng(1), 1000)
    division = divide(drawn)
    flipped = tuple(replace(item, loss=1 - item.loss) for item in division.test)
    dev = sample_of(division.dev)
    first = fixed_sequence(dev, sample_of(division.test), max_error=0.4, delta=0.9)
    other = fixed_sequence(dev, sample_of(flipped), max_error=0.9999, delta=0.9)
    assert first
    assert set(first) <= set(candidates(dev))
    assert set(other) <= set(candidates(dev))


def test_sequence_stops_at_the_first_failure() -> None:
    # Errors in the middle: the loosest thresholds would pass again, and must not be reached.
    scores = list(np.linspace(1, 0, 2000))
    dev = sample_of(records(scores, [0.0] * 300 + [1.0] * 1700))
    test = sample_of(records(scores, [0.0] * 300 + [1.0] * 60 + [0.0] * 1640))
    assert test.p_value(test.accepted(0.0), 0.05) <= 0.05
    passed = fixed_sequence(dev, test, max_error=0.05, delta=0.05)
    assert passed
    assert test.accepted(passed[-1]).n < 360


def test_records_own_split_is_used() -> None:
    drawn = WORLD_B.draw(np.random.default_rng(4), 1000)
    marked = tuple(
        replace(item, split="dev" if index < 200 else "test") for index, item in enumerate(drawn)
    )
    division = divide(marked)
    assert (len(division.dev), len(division.test)) == (200, 800)
    assert division.dev == marked[:200]


@pytest.mark.parametrize(("split", "procedure"), [("test", Procedure.SGR), (None, None)])
def test_without_dev_records_bisection_takes_over(
    split: str | None, procedure: Procedure | None
) -> None:
    drawn = tuple(
        replace(item, split=split) for item in WORLD_B.draw(np.random.default_rng(4), 2000)
    )
    expected = procedure or Procedure.SPLIT_FIXED_SEQUENCE
    certificate = calibrate(drawn, max_error=0.05, confidence=0.95)
    assert certificate.procedure is expected
    assert certificate.status is Status.CERTIFIED


def test_only_dev_records_prove_nothing() -> None:
    drawn = tuple(
        replace(item, split="dev") for item in WORLD_B.draw(np.random.default_rng(4), 500)
    )
    certificate = calibrate(drawn, max_error=0.05, confidence=0.95)
    assert certificate.status is Status.NOT_CERTIFIED
    assert 'split "test"' in certificate.notes[0]


def test_clusters_stay_together_and_count_once() -> None:
    drawn = WORLD_A.draw(np.random.default_rng(5), 300)
    joined = tuple(
        replace(item, cluster=f"patient-{index // 3}") for index, item in enumerate(drawn)
    )
    division = divide(joined)
    dev = {item.cluster for item in division.dev}
    test = {item.cluster for item in division.test}
    assert len(division.dev) + len(division.test) == 100
    assert not dev & test
    assert division.num_joined == 200
    assert "cluster" in " ".join(certify(division, CLAIM).notes)


def test_cluster_with_one_dev_record_is_dev() -> None:
    pair = (
        Record(id="a", score=0.1, loss=0, cluster="p", split="dev"),
        Record(id="b", score=0.2, loss=0, cluster="p", split="test"),
        Record(id="c", score=0.3, loss=0, split="test"),
    )
    division = divide(pair)
    assert len(division.dev) == 1
    assert [item.id for item in division.test] == ["c"]


def test_repeated_records_cannot_buy_a_certificate() -> None:
    few = records([0.9] * 30, [0.0] * 30)
    assert calibrate(few * 100, max_error=0.05, confidence=0.95).status is Status.NOT_CERTIFIED


def test_choice_within_a_cluster_ignores_order_and_outcome() -> None:
    members = [Record(id=f"m{i}", score=i / 10, loss=i % 2, cluster="c") for i in range(10)]
    flipped = [replace(item, loss=1 - item.loss) for item in reversed(members)]
    (chosen,), (other,) = divide(members).test, divide(flipped).test
    assert chosen.id == other.id


def test_contradictory_copies_count_as_wrong() -> None:
    copies = (Record(id="a", score=1.0, loss=0.0), Record(id="a", score=1.0, loss=1.0))
    assert divide(copies).test[0].loss == 1.0


def test_ties_stand_or_fall_together() -> None:
    rng = np.random.default_rng(6)
    scores = list(rng.integers(0, 4, 2000).astype(float))
    losses = [float(rng.random() < (0.01 if score == 3 else 0.3)) for score in scores]
    certificate = calibrate(records(scores, losses), max_error=0.05, confidence=0.95)
    assert certificate.threshold == 3.0
    assert certificate.local_share == pytest.approx(0.25, abs=0.03)


def test_one_score_for_all() -> None:
    right = records([0.5] * 500, [0.0] * 500)
    assert calibrate(right, max_error=0.05, confidence=0.95).local_share == 1.0
    mixed = records([0.5] * 500, [0.0, 1.0] * 250)
    assert calibrate(mixed, max_error=0.05, confidence=0.95).status is Status.NOT_CERTIFIED


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 58, 83])
def test_too_few_records_are_never_enough(n: int) -> None:
    certificate = calibrate(
        records([i / n for i in range(n)], [0.0] * n), max_error=0.05, confidence=0.95
    )
    assert certificate.status is Status.NOT_CERTIFIED
    assert certificate.threshold is None
    assert certificate.local_share == 0.0
    assert certificate.observed_error is None
    assert certificate.labels_needed is not None
    assert n + certificate.labels_needed == pytest.approx(85, abs=50)


def test_all_right_and_all_wrong() -> None:
    scores = list(np.random.default_rng(0).random(1000))
    right = calibrate(records(scores, [0.0] * 1000), max_error=0.05, confidence=0.95)
    assert right.status is Status.CERTIFIED
    assert right.local_share > 0.98
    assert right.observed_error == 0.0
    wrong = calibrate(records(scores, [1.0] * 1000), max_error=0.05, confidence=0.95)
    assert wrong.status is Status.NOT_CERTIFIED
    assert wrong.labels_needed is None
    assert "more labels alone would not help" in wrong.notes[0]


def test_labels_needed_is_of_the_right_size() -> None:
    # World A needs some 2,000 records for a certificate with 80 % probability.
    needed = []
    rng = np.random.default_rng(11)
    for _ in range(15):
        certificate = calibrate(WORLD_A.draw(rng, 600), max_error=0.05, confidence=0.95)
        if certificate.labels_needed is not None:
            needed.append(600 + certificate.labels_needed)
    assert 1000 <= float(np.median(needed)) <= 4000


def test_frontier_rows_share_delta() -> None:
    certificate = calibrate(
        WORLD_B.draw(np.random.default_rng(2), 3000), max_error=0.05, confidence=0.95
    )
    rows = certificate.frontier
    assert [row.max_error for row in rows] == [0.02, 0.05, 0.10, 0.20]
    assert all(row.delta == pytest.approx(0.0125) for row in rows)
    for row in rows:
        if row.threshold is None:
            assert (row.n, row.local_share, row.error_upper_bound) == (0, 0.0, None)
        else:
            assert row.error_upper_bound is not None
            assert row.error_upper_bound <= row.max_error
    shares = [row.local_share for row in rows if row.threshold is not None]
    assert shares == sorted(shares)


def test_graded_losses_use_the_coarser_bound() -> None:
    rng = np.random.default_rng(9)
    scores = rng.random(2000)
    losses = np.where(scores > 0.5, 0.02, 0.5) * rng.random(2000)
    certificate = calibrate(records(list(scores), list(losses)), max_error=0.05, confidence=0.95)
    assert certificate.status is Status.CERTIFIED
    assert certificate.error_upper_bound is not None
    assert certificate.error_upper_bound <= 0.05
    assert any("graded" in note for note in certificate.notes)


def test_slices_are_judged_by_themselves() -> None:
    rng = np.random.default_rng(12)
    drawn = []
    for index in range(4000):
        site = "north" if index % 4 else "south"
        wrong = rng.random() < (0.01 if site == "north" else 0.12)
        drawn.append(
            Record(
                id=str(index),
                score=float(rng.random()),
                loss=float(wrong),
                slices=(("site", site),),
            )
        )
    certificate = calibrate(drawn, max_error=0.05, confidence=0.95)
    north, south = certificate.slices
    assert (north.value, north.status) == ("north", Status.CERTIFIED)
    assert (south.value, south.status) == ("south", Status.NOT_CERTIFIED)
    assert south.observed_error is not None
    assert south.observed_error > 0.05
    assert north.n + south.n == certificate.n


def test_what_if_counts_and_claims_nothing() -> None:
    division = divide(WORLD_A.draw(np.random.default_rng(1), 1000))
    what = what_if(division, CLAIM, 0.8)
    accepted = [item for item in division.test if item.score >= 0.8]
    assert what.n == len(accepted)
    assert what.errors == sum(item.loss for item in accepted)
    assert what.would_pass == (what.error_upper_bound <= 0.05)
    assert what_if(division, CLAIM, 2.0).n == 0


def test_bisection_returns_what_it_certified() -> None:
    # 500 right on top, 500 wrong below: the last probe fails, the last certified one must be returned.
    sample = sample_of(records(list(range(1000)), [1.0] * 500 + [0.0] * 500))
    passed = bisection(sample, max_error=0.05, delta=0.05)
    accepted = sample.accepted(passed[-1])
    assert 450 <= accepted.n <= 520
    assert sample.p_value(accepted, 0.05) <= 0.05 / 10


SETUP = Setup(
    model="a" * 64,
    prompt_sha256="c" * 64,
    labels=("normal", "abnormal"),
    decoding=(("temperature", "0"),),
    preprocess_version="1",
    anonymizer_version="1",
    language="en",
)


def _certified() -> tuple[Certificate, str]:
    drawn = tuple(
        replace(item, setup=SETUP.sha256, task="triage")
        for item in WORLD_B.draw(np.random.default_rng(1), 2000)
    )
    certificate = certify(divide(drawn), CLAIM, scorer_sha256="d" * 64)
    running = fingerprint(
        setup_sha256=SETUP.sha256, scorer_sha256="d" * 64, task="triage", loss=Loss.ERROR
    )
    return certificate, running


def test_certificate_covers_its_own_fingerprint() -> None:
    certificate, running = _certified()
    assert certificate.covers(running)
    assert not replace(certificate, status=Status.NOT_CERTIFIED).covers(running)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "e" * 64},
        {"prompt_sha256": "e" * 64},
        {"labels": ("abnormal", "normal")},
        {"decoding": (("temperature", "1"),)},
        {"preprocess_version": "2"},
        {"anonymizer_version": "2"},
        {"language": "pt"},
        {"gate_version": "1"},
    ],
)
def test_any_change_of_setup_voids_the_certificate(change: dict[str, object]) -> None:
    certificate, _ = _certified()
    changed = replace(SETUP, **change)  # type: ignore[arg-type]
    running = fingerprint(
        setup_sha256=changed.sha256, scorer_sha256="d" * 64, task="triage", loss=Loss.ERROR
    )
    assert not certificate.covers(running)


@pytest.mark.parametrize(
    ("scorer", "task", "loss"),
    [
        ("default", "triage", Loss.ERROR),
        ("d" * 64, "other", Loss.ERROR),
        ("d" * 64, "triage", Loss.DISAGREEMENT),
    ],
)
def test_scorer_task_and_loss_are_bound_too(scorer: str, task: str, loss: Loss) -> None:
    certificate, _ = _certified()
    running = fingerprint(setup_sha256=SETUP.sha256, scorer_sha256=scorer, task=task, loss=loss)
    assert not certificate.covers(running)


def test_records_without_setup_cover_no_device() -> None:
    certificate = calibrate(
        WORLD_B.draw(np.random.default_rng(1), 2000), max_error=0.05, confidence=0.95
    )
    assert certificate.status is Status.CERTIFIED
    assert not certificate.covers(certificate.fingerprint)
    assert any("covers no device" in note for note in certificate.notes)


def test_mixed_tasks_or_setups_are_refused() -> None:
    one = Record(id="a", score=1.0, loss=0.0, task="x", setup="1" * 64)
    with pytest.raises(CalibrationError, match="2 tasks"):
        divide((one, replace(one, task="y")))
    with pytest.raises(CalibrationError, match="2 different setups"):
        divide((one, replace(one, setup="2" * 64)))
    with pytest.raises(CalibrationError, match="no records"):
        divide(())


@pytest.mark.parametrize("bad", [0.0, 1.0, -1.0, math.nan])
def test_limits_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="max_error"):
        Claim(max_error=bad, confidence=0.95)
    with pytest.raises(CalibrationError, match="confidence"):
        Claim(max_error=0.05, confidence=bad)
