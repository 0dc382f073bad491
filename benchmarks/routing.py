"""Routing: how well the device knows its own errors, what a certificate keeps, and how soon an alarm speaks.

Figures from simulation need nothing. Figures of real models come from answers kept on disk (a full run asks the models for
what is missing, which takes hours on a laptop; ``--quick`` takes what is there). Definitions: :mod:`partition.calibration.quality`.

The device's scorer is judged in cross-validation: five folds that never part texts which differ only in case, digits or
punctuation. Intervals are 95 % bootstrap intervals over such groups of texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks._model_outputs import (
    Example,
    Output,
    cached_outputs,
    compute_outputs,
    read_examples,
)
from benchmarks.line import Line, Options
from edge_agent.confidence import features
from partition.calibration.calibration import Claim, certify, divide, sample_of
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
from partition.calibration.records import Record, cluster_of
from partition.calibration.scorer_training import rescored, train
from partition.calibration.threshold_search import Sample, fixed_sequence
from partition.oversight.alarm import ErrorAlarm
from partition.task import Task, load_task

EDGE_MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
CLOUD_MODEL = "qwen2.5-coder-1.5b-instruct"
MAX_ERROR, CONFIDENCE = 0.05, 0.95
_DELTA = 0.05
_MIN_OUTPUTS = 100  # of one model, for any figure
_QUICK_MODEL_S = 30.0  # how long --quick asks a model when nothing is on disk
_HERE = Path(__file__).parent
_TASKS = {
    "cxr": _HERE.parent / "edge_agent" / "tasks" / "cxr-triage.toml",
    "headlines": _HERE / "tasks" / "headlines.toml",
}


def run(options: Options) -> Iterator[Line]:
    """Simulations first, then each data set with each model."""
    yield from _alarm_lines(repeats=200 if options.quick else 500)
    yield from _world_lines(repeats=200 if options.quick else 500)
    for name, path in _TASKS.items():
        if (options.data / name / "dev.jsonl").is_file():
            yield from _data_lines(name, load_task(path), options)


# --- simulations


def _alarm_lines(repeats: int) -> Iterator[Line]:
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


def _world_lines(repeats: int) -> Iterator[Line]:
    """Broken promises and local share in two worlds whose truth is known."""
    for name, low, steepness, middle in (("A", 0.25, 9.0, 0.42), ("B", 0.30, 14.0, 0.45)):
        scores = np.linspace(0, 1, 200_001)
        top = 1 / (1 + np.exp(-steepness * (1 - middle)))
        p_right = low + (0.99 - low) / (1 + np.exp(-steepness * (scores - middle))) / top
        population = _Answers(scores=scores, losses=1 - p_right)
        for size in (500, 1000, 2000, 5000):
            yield from _guarantee_lines(f"world-{name} n-{size}", population, size, repeats)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Answers:
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


def _guarantee_lines(
    case: str, population: _Answers, size: int, repeats: int, max_error: float = MAX_ERROR
) -> Iterator[Line]:
    """Calibrate on many draws of ``size``, and look each threshold up in the population."""
    rng = np.random.default_rng(1)
    truth, oracle = population.sample(), population.oracle_share(max_error)
    found: dict[str, list[tuple[bool, float]]] = {"certified": [], "naive": []}
    for _ in range(repeats):
        chosen = rng.integers(0, len(population.scores), size)
        wrong = rng.random(size) < population.losses[chosen]
        answers = _Answers(scores=population.scores[chosen], losses=wrong.astype(np.float64))
        num_dev = len(answers.scores) * 3 // 10
        dev = _Answers(scores=answers.scores[:num_dev], losses=answers.losses[:num_dev]).sample()
        test = _Answers(scores=answers.scores[num_dev:], losses=answers.losses[num_dev:]).sample()
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


# --- real models


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Judged:
    """One edge model on one data set, scored in cross-validation."""

    examples: tuple[Example, ...]
    right: NDArray[np.bool_]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    plain: dict[str, NDArray[np.float64]]  # scores of one feature alone, higher when surer
    groups: NDArray[np.int_]
    records: tuple[Record, ...]  # with the cross-validated score


def _data_lines(name: str, task: Task, options: Options) -> Iterator[Line]:
    dev = read_examples(options.data / name / "dev.jsonl")
    everything = dev + read_examples(options.data / name / "train.jsonl")
    for model in EDGE_MODELS:
        _ask(model, task, dev, options)
        outputs = cached_outputs(model, task, everything)
        examples = tuple(example for example in everything if example.id in outputs)
        if len(examples) < _MIN_OUTPUTS:
            continue
        judged = _cross_validated(task, examples, outputs)
        case = f"{name} {model} n-{len(examples)}"
        yield from _confidence_lines(case, judged, options)
        yield from _certificate_lines(case, judged, options)
        if not options.quick:
            _ask(CLOUD_MODEL, task, dev, options)
        yield from _routing_lines(name, model, task, judged, options)


def _ask(model: str, task: Task, examples: Sequence[Example], options: Options) -> None:
    """Fill the cache: all of it, or for a little while if there is nothing yet."""
    if options.quick and (
        model != EDGE_MODELS[0] or len(cached_outputs(model, task, examples)) >= _MIN_OUTPUTS
    ):
        return
    started_s = time.monotonic()
    for _ in compute_outputs(model, task, examples):
        if options.quick and time.monotonic() - started_s > _QUICK_MODEL_S:
            return


def _cross_validated(
    task: Task, examples: tuple[Example, ...], outputs: dict[str, Output]
) -> _Judged:
    names = [cluster_of(example.text, b"benchmark") for example in examples]
    groups = np.unique(names, return_inverse=True)[1]
    records = tuple(
        _record(task, example, outputs[example.id], cluster)
        for example, cluster in zip(examples, names, strict=True)
    )
    right = np.array([record.is_right for record in records])
    scores, probabilities = np.empty(len(records)), np.empty(len(records))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for seen, held_out in folds.split(scores, right, groups):
        # One record of each group, as in calibration: copies in two inner folds would make the scorer too sure.
        scorer = train(divide([records[index] for index in seen], dev_percent=100).dev).scorer
        for index, record in zip(
            held_out, rescored([records[index] for index in held_out], scorer), strict=True
        ):
            scores[index] = record.score
            probabilities[index] = scorer.display.probability(record.score)
    found = [dict(record.features) for record in records]
    return _Judged(
        examples=examples,
        right=right,
        scores=scores,
        probabilities=probabilities,
        plain={
            "max-probability": np.array([row["opt_max"] for row in found]),
            "token-entropy": -np.array([row["first_entropy"] for row in found]),
        },
        groups=groups,
        records=tuple(
            replace(record, score=float(score))
            for record, score in zip(records, scores, strict=True)
        ),
    )


def _record(task: Task, example: Example, output: Output, cluster: str) -> Record:
    return Record(
        id=example.id,
        score=0.0,
        loss=float(output.answer.text != example.label),
        task=task.name,
        cluster=cluster,
        features=features(output.answer, task),
        hidden=tuple(output.hidden.tolist()),
    )


def _confidence_lines(case: str, judged: _Judged, options: Options) -> Iterator[Line]:
    right, runs = judged.right, _num_resamples(options)
    for name, plain in judged.plain.items():
        yield Line(
            case=f"auroc {case}",
            ours=auroc(judged.scores, right),
            theirs=auroc(plain, right),
            peer=name,
            unit="AUROC",
            runs=1,
        )

        def gain(rows: NDArray[np.int_], plain: NDArray[np.float64] = plain) -> float:
            return auroc(judged.scores[rows], right[rows]) - auroc(plain[rows], right[rows])

        low, high = _interval(judged.groups, gain, runs)
        yield Line(case=f"auroc-gain-low over-{name} {case}", ours=low, unit="AUROC", runs=runs)
        yield Line(case=f"auroc-gain-high over-{name} {case}", ours=high, unit="AUROC", runs=runs)
    plain = judged.plain["max-probability"]
    for label, figure in (("aurc", aurc), ("excess-aurc", excess_aurc)):
        yield Line(
            case=f"{label} {case}",
            ours=figure(judged.scores, right),
            theirs=figure(plain, right),
            peer="max-probability",
            unit=label,
            runs=1,
            less_is_better=True,
        )
    distinct = np.unique(judged.groups, return_index=True)[1]
    rng = np.random.default_rng(0)
    for suffix, rows in (("", np.arange(len(right))), (" distinct-texts", distinct)):
        stated, outcome = judged.probabilities[rows], right[rows]
        for label, error in (("ece", calibration_error), ("brier", brier)):
            yield Line(
                case=f"{label}{suffix} {case}",
                ours=error(stated, outcome),
                theirs=error(plain[rows], outcome),
                peer="max-probability",
                unit=label,
                runs=1,
                less_is_better=True,
            )
        # What bins of this size show for a perfectly honest probability.
        floor = [calibration_error(stated, rng.random(len(stated)) < stated) for _ in range(100)]
        yield Line(
            case=f"ece-of-a-perfect-score{suffix} {case}",
            ours=float(np.mean(floor)),
            unit="ece",
            runs=100,
        )


def _certificate_lines(case: str, judged: _Judged, options: Options) -> Iterator[Line]:
    """The certificate of these records, and the guarantee over resamples of them as a population."""
    for max_error in (0.05, 0.10, 0.20):
        claim = Claim(max_error=max_error, confidence=CONFIDENCE)
        certificate = certify(divide(judged.records), claim)
        yield Line(
            case=f"certified-share error-{max_error:g} {case}",
            ours=certificate.local_share,
            unit="share of requests",
            runs=1,
        )
    sample = sample_of(judged.records)
    population = _Answers(scores=sample.scores, losses=sample.losses)
    # The first limit that leaves something to certify: with untrained models that may be a high one.
    for max_error in (0.05, 0.10, 0.20, 0.30):
        if population.oracle_share(max_error) >= 0.05:
            yield from _guarantee_lines(
                f"resampled-2000-of {case}",
                population,
                2000,
                200 if options.quick else 500,
                max_error,
            )
            return


def _routing_lines(
    name: str, model: str, task: Task, judged: _Judged, options: Options
) -> Iterator[Line]:
    """Both tiers together, on the examples that the cloud model has answered."""
    cloud = cached_outputs(CLOUD_MODEL, task, judged.examples)
    rows = np.array([index for index, item in enumerate(judged.examples) if item.id in cloud])
    if len(rows) < _MIN_OUTPUTS:
        return
    examples = [judged.examples[index] for index in rows]
    edge_right = judged.right[rows].astype(float)
    cloud_right = np.array([float(cloud[item.id].answer.text == item.label) for item in examples])
    groups, runs = judged.groups[rows], _num_resamples(options)
    case = f"{name} {model} cloud-{CLOUD_MODEL} n-{len(rows)}"
    for label, value in (
        ("edge-only", float(edge_right.mean())),
        ("cloud-only", float(cloud_right.mean())),
        ("oracle", float(np.maximum(edge_right, cloud_right).mean())),
    ):
        yield Line(case=f"quality {label} {case}", ours=value, unit="share right", runs=1)
    mid = cached_outputs(EDGE_MODELS[1], task, examples)
    if model != EDGE_MODELS[1] and len(mid) == len(examples):
        value = float(np.mean([mid[item.id].answer.text == item.label for item in examples]))
        yield Line(
            case=f"quality {EDGE_MODELS[1]}-for-everything {case}",
            ours=value,
            unit="share right",
            runs=1,
        )
    low, high = _interval(
        groups, lambda chosen: float((cloud_right[chosen] - edge_right[chosen]).mean()), runs
    )
    yield Line(case=f"quality-gap-low {case}", ours=low, unit="share right", runs=runs)
    yield Line(case=f"quality-gap-high {case}", ours=high, unit="share right", runs=runs)
    yield from _table_lines(case, judged, rows, edge_right, cloud_right)
    if low <= 0:
        return  # no gap that could be recovered: APGR would mean nothing

    def recovered(score: NDArray[np.float64], chosen: NDArray[np.int_]) -> float:
        return apgr(
            *quality_by_cloud_share(score[rows][chosen], edge_right[chosen], cloud_right[chosen])
        )

    everyone = np.arange(len(rows))
    for peer, plain in judged.plain.items():
        yield Line(
            case=f"apgr {case}",
            ours=recovered(judged.scores, everyone),
            theirs=recovered(plain, everyone),
            peer=peer,
            unit="APGR",
            runs=1,
        )

        def gain(chosen: NDArray[np.int_], plain: NDArray[np.float64] = plain) -> float:
            return recovered(judged.scores, chosen) - recovered(plain, chosen)

        low, high = _interval(groups, gain, runs)
        yield Line(case=f"apgr-gain-low over-{peer} {case}", ours=low, unit="APGR", runs=runs)
        yield Line(case=f"apgr-gain-high over-{peer} {case}", ours=high, unit="APGR", runs=runs)
    curve = quality_by_cloud_share(judged.scores[rows], edge_right, cloud_right)
    plain_curve = quality_by_cloud_share(
        judged.plain["max-probability"][rows], edge_right, cloud_right
    )
    for share in (0.5, 0.8):
        yield Line(
            case=f"cpt-{100 * share:.0f} {case}",
            ours=cloud_share_for(*curve, share),
            theirs=cloud_share_for(*plain_curve, share),
            peer="max-probability",
            unit="share sent to the cloud",
            runs=1,
            less_is_better=True,
        )


def _table_lines(
    case: str,
    judged: _Judged,
    rows: NDArray[np.int_],
    edge_right: NDArray[np.float64],
    cloud_right: NDArray[np.float64],
) -> Iterator[Line]:
    """Quality of all answers together with a quarter, half and three quarters of the requests in the cloud."""
    scores = {"scorer": judged.scores[rows]} | {
        name: plain[rows] for name, plain in judged.plain.items()
    }
    for share in (0.25, 0.5, 0.75):
        by_lot = (1 - share) * float(edge_right.mean()) + share * float(cloud_right.mean())
        for name, score in scores.items():
            quality = quality_by_cloud_share(score, edge_right, cloud_right)[1]
            yield Line(
                case=f"quality {name} cloud-share-{share:g} {case}",
                ours=float(quality[round(share * len(rows))]),
                theirs=by_lot,
                peer="random",
                unit="share right",
                runs=1,
            )


def _num_resamples(options: Options) -> int:
    return 200 if options.quick else 1000


def _interval(
    groups: NDArray[np.int_], figure: Callable[[NDArray[np.int_]], float], runs: int
) -> tuple[float, float]:
    """95 % bootstrap interval of a figure of rows, whole groups drawn with replacement."""
    rng = np.random.default_rng(3)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    values = [
        figure(
            np.concatenate(
                [members[index] for index in rng.integers(0, len(members), len(members))]
            )
        )
        for _ in range(runs)
    ]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
