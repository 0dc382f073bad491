"""Guarantees by simulation: how often a promise is broken, what it keeps of the possible, and how soon an alarm speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.line import Line
from partition.calibration.threshold_search import Sample, fixed_sequence
from partition.oversight.alarm import ErrorAlarm

MAX_ERROR = 0.05
_DELTA = 0.05


def alarm_lines(repeats: int) -> Iterator[Line]:
    """Audits until the alarm at several true errors, and how often it is false."""
    rng = np.random.default_rng(0)
    for true_error in (0.07, 0.10, 0.15, 0.25):
        counts = [_audits_until_alarm(rng.random(4000) < true_error) for _ in range(repeats)]
        yield Line(
            case=f"alarm-median-audits true-error-{true_error:g} limit-{MAX_ERROR:g}",
            ours=float(np.median([4000 if count is None else count for count in counts])),
            unit="audits",
            runs=repeats,
            less_is_better=True,
        )
    counts = [_audits_until_alarm(rng.random(4000) < MAX_ERROR) for _ in range(repeats)]
    yield Line(
        case=f"alarm-false-rate limit-{MAX_ERROR:g} within-4000-audits",
        ours=float(np.mean([count is not None for count in counts])),
        unit="share",
        runs=repeats,
        less_is_better=True,
    )


def _audits_until_alarm(wrong: NDArray[np.bool_]) -> int | None:
    alarm = ErrorAlarm(max_error=MAX_ERROR, delta=_DELTA)
    for count, is_wrong in enumerate(wrong, 1):
        alarm = alarm.after(float(is_wrong))
        if alarm.is_raised:
            return count
    return None


def world_lines(repeats: int) -> Iterator[Line]:
    """Broken promises and local share in two worlds whose truth is known."""
    for name, low, steepness, middle in (("A", 0.25, 9.0, 0.42), ("B", 0.30, 14.0, 0.45)):
        scores = np.linspace(0, 1, 200_001)
        top = 1 / (1 + np.exp(-steepness * (1 - middle)))
        p_right = low + (0.99 - low) / (1 + np.exp(-steepness * (scores - middle))) / top
        population = Answers(scores=scores, losses=1 - p_right)
        for size in (500, 1000, 2000, 5000):
            yield from guarantee_lines(f"world-{name} n-{size}", population, size, repeats)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Answers:
    """Scores and losses ``(n,)``; for a population, losses may be probabilities of being wrong."""

    scores: NDArray[np.float64]
    losses: NDArray[np.float64]

    def sample(self) -> Sample:
        return Sample.of(self.scores, self.losses, is_binary=True)

    def oracle_share(self, max_error: float) -> float:
        """Largest share that a threshold could keep local if the truth were known."""
        truth = self.sample()
        sizes = np.arange(1, len(truth) + 1)
        ends = np.append(truth.scores[1:] != truth.scores[:-1], True)  # ties cannot be parted
        passing = sizes[ends & (truth.cumulative[1:] <= max_error * sizes)]
        return float(passing.max()) / len(truth) if len(passing) else 0.0


def guarantee_lines(
    case: str, population: Answers, size: int, repeats: int, max_error: float = MAX_ERROR
) -> Iterator[Line]:
    """Calibrate on many draws of ``size``, and look each threshold up in the population."""
    rng = np.random.default_rng(1)
    truth, oracle = population.sample(), population.oracle_share(max_error)
    found: dict[str, list[tuple[bool, float]]] = {"certified": [], "naive": []}
    for _ in range(repeats):
        chosen = rng.integers(0, len(population.scores), size)
        wrong = rng.random(size) < population.losses[chosen]
        answers = Answers(scores=population.scores[chosen], losses=wrong.astype(np.float64))
        num_dev = len(answers.scores) * 3 // 10
        dev = Answers(scores=answers.scores[:num_dev], losses=answers.losses[:num_dev]).sample()
        test = Answers(scores=answers.scores[num_dev:], losses=answers.losses[num_dev:]).sample()
        passed = fixed_sequence(dev, test, max_error=max_error, delta=_DELTA)
        everything = answers.sample()
        below = np.flatnonzero(
            everything.cumulative[1:] <= max_error * np.arange(1, len(everything) + 1)
        )
        naive = float(everything.scores[below[-1]]) if len(below) else None
        for name, threshold in (("certified", passed[-1] if passed else None), ("naive", naive)):
            accepted = truth.accepted(np.inf if threshold is None else threshold)
            broken = accepted.n > 0 and accepted.errors > max_error * accepted.n
            found[name].append((broken, accepted.n / len(truth)))
    ours, theirs = np.array(found["certified"]), np.array(found["naive"])
    peer = "loosest threshold with observed error within the limit"
    yield Line(
        case=f"broken-promises limit-{max_error:g} {case}",
        ours=float(ours[:, 0].mean()),
        theirs=float(theirs[:, 0].mean()),
        peer=peer,
        unit="share of calibrations",
        runs=repeats,
        less_is_better=True,
    )
    yield Line(
        case=f"certified-share-of-oracle limit-{max_error:g} {case} (oracle {oracle:.3f})",
        ours=float(ours[:, 1].mean()) / oracle if oracle else 0.0,
        unit="ratio",
        runs=repeats,
    )
