"""From labelled answers of one task to a certificate. Pure: records in, certificate out; needs scipy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partition.calibration.binomial import labels_for_power, share_interval
from partition.calibration.certificate import Certificate, FrontierRow, Procedure, SliceRow, Status
from partition.calibration.drift import bins_of
from partition.calibration.records import Record
from partition.calibration.threshold_search import (
    Sample,
    bisection,
    candidates,
    fixed_sequence,
    smoothed_errors,
)
from partition.errors import CalibrationError
from partition.fingerprint import UNSCORED, Loss, fingerprint

FRONTIER_MAX_ERRORS = (0.02, 0.05, 0.10, 0.20)
_DEV_PERCENT = 30
_MIN_SLICE_DEV = 50  # with fewer, the order of candidates comes from the dev records of all slices
_MAX_SLICES = 50
_MIN_RECORDS = 200  # below it nobody can tell whether more would help


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is to be proved, fixed before any label is looked at."""

    max_error: float  # alpha
    confidence: float  # 1 - delta
    loss: Loss = Loss.ERROR

    def __post_init__(self) -> None:
        for name, value in (("max_error", self.max_error), ("confidence", self.confidence)):
            if not 0.0 < value < 1.0:
                raise CalibrationError(f"{name} must lie between 0 and 1, as 0.05 or 0.95")

    @property
    def delta(self) -> float:
        """What the proof may fail with."""
        return round(1.0 - self.confidence, 12)  # 1 - 0.95 is 0.050000000000000044


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The records of one task, one a cluster, in two parts that share no cluster."""

    task: str
    dev: tuple[Record, ...]
    test: tuple[Record, ...]
    num_read: int
    num_learned: int = 0  # of them, left out because the label head was trained on them
    setup: str  # Setup.sha256, or empty
    split_was_given: bool

    @property
    def num_joined(self) -> int:
        """Records left out because another one stands for their cluster."""
        return self.num_read - self.num_learned - len(self.dev) - len(self.test)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """One threshold on the test records, without any claim."""

    threshold: float
    local_share: float
    n: int
    errors: float
    observed_error: float | None
    error_upper_bound: float
    p_value: float
    would_pass: bool  # had this threshold been the only one, and chosen without these records


def by_task(records: Iterable[Record]) -> dict[str, tuple[Record, ...]]:
    """Records of each task, tasks in alphabetical order."""
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(record.task, []).append(record)
    return {task: tuple(tasks[task]) for task in sorted(tasks)}


def divide(
    records: Sequence[Record], *, seed: int | None = None, dev_percent: int = _DEV_PERCENT
) -> Division:
    """Keep one record of each cluster and part them into dev and test.

    Where the records say it, their own ``split`` holds (a cluster with any dev record is dev). Otherwise dev are the 30 %
    of clusters whose id (or cluster name) has the smallest SHA-256, salted with ``seed`` if there is one.

    Raises:
        CalibrationError: The records are of several tasks or setups, or there are none.
    """
    if not records:
        raise CalibrationError("no records; write them with `edge-agent run --record`")
    tasks = {record.task for record in records}
    if len(tasks) > 1:
        raise CalibrationError(f"records of {len(tasks)} tasks; calibrate one task at a time")
    num_read = len(records)
    records = [record for record in records if not record.was_learned]
    if not records:
        raise CalibrationError(
            "the label head was trained on every one of these records; label others, or train it with --percent 50"
        )
    setups = {record.setup for record in records}
    if len(setups) > 1:
        raise CalibrationError(
            f"task {records[0].task!r}: records of {len(setups)} different setups; answer all of them with the same model, prompt and anonymizer"
        )
    clusters: dict[str, list[Record]] = {}
    for record in records:
        clusters.setdefault(record.cluster_key, []).append(record)
    kept = {key: _representative(members) for key, members in clusters.items()}
    if records[0].split is not None:
        is_dev = {
            key: any(record.split == "dev" for record in members)
            for key, members in clusters.items()
        }
    else:
        salt = "" if seed is None else f"{seed}:"
        ranked = sorted(kept, key=lambda key: _sha256(salt + key.partition(" ")[2]) + key)
        first = frozenset(ranked[: len(ranked) * dev_percent // 100])
        is_dev = {key: key in first for key in kept}
    return Division(
        task=records[0].task,
        dev=tuple(record for key, record in kept.items() if is_dev[key]),
        test=tuple(record for key, record in kept.items() if not is_dev[key]),
        num_read=num_read,
        num_learned=num_read - len(records),
        setup=records[0].setup,
        split_was_given=records[0].split is not None,
    )


def certify(
    division: Division,
    claim: Claim,
    *,
    procedure: Procedure | None = None,
    scorer_sha256: str = UNSCORED,
    gate_sha256: str = "",
) -> Certificate:
    """Prove the loosest threshold that the records allow.

    Args:
        division: The records of one task; dev scores out-of-fold if the scorer was trained on dev.
        claim: What is to be proved.
        procedure: None: split fixed-sequence testing, or SGR if there are no dev records. Never try both and keep the
            better: each would need half of delta.
        scorer_sha256: What made the scores; part of the fingerprint.
        gate_sha256: What the records went through first; empty: no gate.
    """
    chosen = procedure or (Procedure.SPLIT_FIXED_SEQUENCE if division.dev else Procedure.SGR)
    search = _Search(dev=division.dev, test=division.test, procedure=chosen)
    passed = search.thresholds(claim.max_error, claim.delta)
    threshold = passed[-1] if passed else None
    frontier = tuple(
        search.frontier_row(max_error, claim.delta / len(FRONTIER_MAX_ERRORS))
        for max_error in FRONTIER_MAX_ERRORS
    )
    accepted = search.test.accepted(threshold if threshold is not None else math.inf)
    num_test = len(search.test)
    low, high = share_interval(accepted.n, num_test)
    score_edges, score_shares = bins_of(search.test.scores.tolist())
    labels_needed = None if passed else _labels_needed(division, search, claim)
    return Certificate(
        status=Status.CERTIFIED if passed else Status.NOT_CERTIFIED,
        threshold=threshold,
        local_share=accepted.n / num_test if num_test else 0.0,
        observed_error=accepted.errors / accepted.n if accepted.n else None,
        error_upper_bound=search.test.upper_bound(accepted, claim.delta) if passed else None,
        max_error=claim.max_error,
        confidence=claim.confidence,
        n=accepted.n,
        errors=whole(accepted.errors),
        fingerprint=fingerprint(
            setup_sha256=division.setup,
            scorer_sha256=scorer_sha256,
            task=division.task,
            loss=claim.loss,
            gate_sha256=gate_sha256,
        ),
        bound=bool(division.setup),
        frontier=frontier,
        task=division.task,
        loss=claim.loss,
        procedure=chosen,
        num_records=division.num_read,
        num_dev=len(search.dev),
        num_test=num_test,
        local_share_low=low if passed else 0.0,
        local_share_high=high if passed else 0.0,
        labels_needed=labels_needed,
        stricter_thresholds=passed[-2::-1],
        slices=_slice_rows(search, claim, threshold),
        score_edges=score_edges,
        score_shares=score_shares,
        notes=_notes(division, claim, search, is_certified=bool(passed), needed=labels_needed),
    )


def calibrate(
    records: Sequence[Record],
    *,
    max_error: float,
    confidence: float,
    loss: Loss = Loss.ERROR,
    seed: int | None = None,
) -> Certificate:
    """Divide and certify the records of one task.

    Raises:
        CalibrationError: Nothing can be concluded: no records, several tasks or setups, or limits outside (0, 1).
    """
    claim = Claim(max_error=max_error, confidence=confidence, loss=loss)
    return certify(divide(records, seed=seed), claim)


def what_if(division: Division, claim: Claim, threshold: float) -> WhatIf:
    """How the test records fall at one threshold."""
    test = sample_of(division.test)
    accepted = test.accepted(threshold)
    p = test.p_value(accepted, claim.max_error)
    return WhatIf(
        threshold=threshold,
        local_share=accepted.n / len(test) if len(test) else 0.0,
        n=accepted.n,
        errors=whole(accepted.errors),
        observed_error=accepted.errors / accepted.n if accepted.n else None,
        error_upper_bound=test.upper_bound(accepted, claim.delta),
        p_value=p,
        would_pass=p <= claim.delta,
    )


def sample_of(records: Sequence[Record], *, is_binary: bool | None = None) -> Sample:
    """Scores and losses of records as arrays; binary if all losses are 0 or 1 and nothing else is said."""
    losses = np.array([record.loss for record in records], dtype=np.float64)
    binary = bool(np.isin(losses, (0.0, 1.0)).all()) if is_binary is None else is_binary
    scores = np.array([record.score for record in records], dtype=np.float64)
    return Sample.of(scores, losses, is_binary=binary)


def whole(errors: float) -> float:
    """A sum of losses, as an ``int`` where it is a whole number."""
    return int(errors) if errors.is_integer() else errors


class _Search:
    """One procedure on one division, for any claim."""

    def __init__(
        self, *, dev: Sequence[Record], test: Sequence[Record], procedure: Procedure
    ) -> None:
        self.procedure = procedure
        self.dev_records, self.test_records = dev, test
        is_binary = all(record.loss in (0.0, 1.0) for record in (*dev, *test))
        self.dev = sample_of(dev, is_binary=is_binary)
        self.test = sample_of(test, is_binary=is_binary)

    def thresholds(self, max_error: float, delta: float) -> tuple[float, ...]:
        if self.procedure is Procedure.SGR:
            return bisection(self.test, max_error=max_error, delta=delta)
        return fixed_sequence(self.dev, self.test, max_error=max_error, delta=delta)

    def frontier_row(self, max_error: float, delta: float) -> FrontierRow:
        passed = self.thresholds(max_error, delta)
        accepted = self.test.accepted(passed[-1] if passed else math.inf)
        return FrontierRow(
            max_error=max_error,
            threshold=passed[-1] if passed else None,
            local_share=accepted.n / len(self.test) if len(self.test) else 0.0,
            n=accepted.n,
            errors=whole(accepted.errors),
            error_upper_bound=self.test.upper_bound(accepted, delta) if passed else None,
            delta=delta,
        )


def _representative(members: Sequence[Record]) -> Record:
    """The one record that stands for a cluster, chosen without looking at how it turned out.

    Among copies that differ in nothing but the outcome, the worst.
    """
    return min(members, key=lambda record: (_sha256(f"{record.id} {record.score!r}"), -record.loss))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _slice_rows(search: _Search, claim: Claim, threshold: float | None) -> tuple[SliceRow, ...]:
    """Every slice at the common threshold, and whether it certifies by itself (delta shared among all slices)."""
    found = sorted({pair for record in search.test_records for pair in record.slices})
    rows = []
    for pair in found[:_MAX_SLICES]:
        dev = tuple(record for record in search.dev_records if pair in record.slices)
        test = tuple(record for record in search.test_records if pair in record.slices)
        part = _Search(
            dev=dev if len(dev) >= _MIN_SLICE_DEV else search.dev_records,
            test=test,
            procedure=search.procedure,
        )
        delta = claim.delta / min(len(found), _MAX_SLICES)
        own = part.thresholds(claim.max_error, delta)
        accepted = part.test.accepted(threshold if threshold is not None else math.inf)
        rows.append(
            SliceRow(
                slice=pair[0],
                value=pair[1],
                num_test=len(test),
                local_share=accepted.n / len(test),
                n=accepted.n,
                errors=whole(accepted.errors),
                observed_error=accepted.errors / accepted.n if accepted.n else None,
                error_upper_bound=part.test.upper_bound(accepted, delta) if accepted.n else None,
                status=Status.CERTIFIED if own else Status.NOT_CERTIFIED,
                threshold=own[-1] if own else None,
            )
        )
    return tuple(rows)


def _labels_needed(division: Division, search: _Search, claim: Claim) -> int | None:
    """How many further records would certify with about 80 % probability; None: no number would.

    Advice from all records, so optimistic by selection; not part of any claim.
    """
    everyone = sample_of((*search.dev_records, *search.test_records))
    size = len(everyone)
    tested_share = 1 - _DEV_PERCENT / 100
    if division.split_was_given and search.test_records:
        tested_share = len(search.test_records) / size
    expected = smoothed_errors(everyone)
    totals = []
    for threshold in candidates(everyone):
        n = everyone.accepted(threshold).n
        if n < min(10, size):
            continue
        needed = labels_for_power(float(expected[n]) / n, claim.max_error, claim.delta)
        if needed is not None:
            totals.append(math.ceil(needed * size / n / tested_share))
    if totals:
        return max(min(totals) - size, size // 4, 1)
    return _MIN_RECORDS - size if size < _MIN_RECORDS else None


def _notes(
    division: Division, claim: Claim, search: _Search, *, is_certified: bool, needed: int | None
) -> tuple[str, ...]:
    notes = []
    if is_certified:
        notes.append(
            f"With {100 * claim.confidence:.4g} % confidence, at most {100 * claim.max_error:.4g} % of the answers at or above the "
            f"threshold are wrong ({claim.loss}), for requests like these records and for this setup only."
        )
    elif not len(search.test):
        notes.append('Not certified: no record is left to test with; mark some as split "test".')
    elif needed is None:
        notes.append(
            "Not certified: by these records even the surest answers err too often, so more labels alone would not help; "
            "use a better model or scorer, or allow a higher error."
        )
    else:
        notes.append(
            f"Not certified: about {needed} more labelled records are needed (a rough estimate from these; the more "
            f"there are, the larger the share that can stay local)."
        )
    if not division.setup:
        notes.append(
            "The records do not say which setup answered, so this certificate covers no device; write them with "
            "`edge-agent run --record`."
        )
    if division.num_learned:
        notes.append(
            f"{division.num_learned} records were left out because the label head was trained on them."
        )
    if division.num_joined:
        notes.append(
            f"{division.num_joined} records share a cluster or id with another one; one of each cluster was used."
        )
    if search.procedure is Procedure.SGR:
        notes.append(
            "No dev records: the threshold was found by bisection (SGR), which proves a little less."
        )
    if not search.test.is_binary:
        notes.append(
            "Losses are graded: the bound is Hoeffding-Bentkus, coarser than the exact one."
        )
    return tuple(notes)
