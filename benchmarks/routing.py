"""Routing: how well the device knows its own errors, what a certificate keeps, and how soon an alarm speaks.

Figures from simulation need nothing. Figures of real models come from answers kept on disk (a full run asks the models for
what is missing, which takes hours on a laptop; ``--quick`` takes what is there). Definitions: :mod:`partition.calibration.quality`.

"+head" is the same model with a label head (:mod:`partition.calibration.label_head`). Everything learned is judged in
cross-validation, see :mod:`benchmarks._judged_answers`. Intervals are 95 % bootstrap intervals over groups of texts that differ in
more than case, digits and punctuation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._bootstrap import bootstrap_interval, figure_lines
from benchmarks._judged_answers import JudgedAnswers, judge
from benchmarks._model_outputs import Example, cached_outputs, compute_outputs, read_examples
from benchmarks._published_pairs import replay_lines
from benchmarks._tier_pair import CONFIDENCE, TierPair, pair_lines
from benchmarks._worlds import Answers, alarm_lines, guarantee_lines, world_lines
from benchmarks.line import Line, Options
from partition.calibration.calibration import Claim, certify, divide, sample_of
from partition.calibration.gate_training import train_gate
from partition.calibration.quality import (
    aurc,
    auroc,
    brier,
    calibration_error,
    excess_aurc,
)
from partition.errors import CalibrationError
from partition.task import Task, load_task

EDGE_MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
CLOUD_MODEL = "qwen2.5-coder-1.5b-instruct"
_NUM_DIVISIONS = 6
_MIN_OUTPUTS = 100  # of one model, for any figure
_QUICK_MODEL_S = 30.0  # how long --quick asks a model when nothing is on disk
_HERE = Path(__file__).parent
_TASKS = {
    "cxr": _HERE.parent / "edge_agent" / "tasks" / "cxr-triage.toml",
    "headlines": _HERE / "tasks" / "headlines.toml",
}


def run(options: Options) -> Iterator[Line]:
    """Simulations first, then each data set with each model."""
    yield from alarm_lines(repeats=200 if options.quick else 500)
    yield from world_lines(repeats=200 if options.quick else 500)
    for name, path in _TASKS.items():
        if (options.data / name / "dev.jsonl").is_file():
            yield from _data_lines(name, load_task(path), options)
    yield from replay_lines(options.data, runs=_num_resamples(options) // 5)


def _data_lines(name: str, task: Task, options: Options) -> Iterator[Line]:
    dev = read_examples(options.data / name / "dev.jsonl")
    everything = dev + read_examples(options.data / name / "train.jsonl")
    if not options.quick:
        _ask(CLOUD_MODEL, task, dev, options)
    for model in EDGE_MODELS:
        _ask(model, task, dev, options)
        outputs = cached_outputs(model, task, everything)
        examples = tuple(example for example in everything if example.id in outputs)
        if len(examples) < _MIN_OUTPUTS:
            continue
        for suffix, with_head in (("", False), ("+head", True)):
            judged = judge(task, examples, outputs, with_head=with_head)
            case = f"{name} {model}{suffix} n-{len(examples)}"
            yield from _confidence_lines(case, judged, options)
            yield from _certificate_lines(case, judged, options)
            yield from _routing_lines(f"{name} {model}{suffix}", model, task, judged, options)


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


def _confidence_lines(case: str, judged: JudgedAnswers, options: Options) -> Iterator[Line]:
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

        low, high = bootstrap_interval(judged.groups, gain, runs)
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


def _certificate_lines(case: str, judged: JudgedAnswers, options: Options) -> Iterator[Line]:
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
        # How much of that is the luck of the division into dev and test.
        shares = [
            certify(divide(judged.records, seed=seed), claim).local_share
            for seed in range(_NUM_DIVISIONS)
        ]
        for label, share in (
            ("mean", np.mean(shares)),
            ("least", np.min(shares)),
            ("most", np.max(shares)),
        ):
            yield Line(
                case=f"certified-share-of-other-divisions {label} error-{max_error:g} {case}",
                ours=float(share),
                unit="share of requests",
                runs=_NUM_DIVISIONS,
            )
    yield from _gate_lines(case, judged)
    sample = sample_of(judged.records)
    population = Answers(scores=sample.scores, losses=sample.losses)
    # The first limit that leaves something to certify: with untrained models that may be a high one.
    for max_error in (0.05, 0.10, 0.20, 0.30):
        if population.oracle_share(max_error) >= 0.05:
            yield from guarantee_lines(
                f"resampled-2000-of {case}",
                population,
                2000,
                200 if options.quick else 500,
                max_error,
            )
            return


def _gate_lines(case: str, judged: JudgedAnswers) -> Iterator[Line]:
    """What a gate on the words of a request saves the local model, and what it costs in local answers."""
    for max_error in (0.05, 0.10, 0.20):
        try:
            training = train_gate(divide(judged.records), max_error=max_error)
        except CalibrationError:
            continue  # nearly all answers are sure, or nearly none
        certificate = certify(training.division, Claim(max_error=max_error, confidence=CONFIDENCE))
        at = f"error-{max_error:g} {case}"
        for label, share in (
            ("gate-stopped", training.stopped),
            ("gate-lost", training.lost),
            ("certified-share-behind-gate", certificate.local_share),
        ):
            yield Line(case=f"{label} {at}", ours=share, unit="share of requests", runs=1)


def _routing_lines(
    name: str, model: str, task: Task, judged: JudgedAnswers, options: Options
) -> Iterator[Line]:
    """Both tiers together, on the examples that the cloud model has answered."""
    cloud = cached_outputs(CLOUD_MODEL, task, judged.examples)
    rows = np.array([index for index, item in enumerate(judged.examples) if item.id in cloud])
    if len(rows) < _MIN_OUTPUTS:
        return
    examples = [judged.examples[index] for index in rows]
    edge_right = judged.right[rows].astype(np.float64)
    cloud_right = np.array([float(cloud[item.id].answer.text == item.label) for item in examples])
    pair = TierPair(
        case=f"{name} cloud-{CLOUD_MODEL} n-{len(rows)}",
        edge_right=edge_right,
        cloud_right=cloud_right,
        groups=judged.groups[rows],
        scores={"scorer": judged.scores[rows]}
        | {plain: score[rows] for plain, score in judged.plain.items()}
        | {"oracle": edge_right - cloud_right},
    )
    runs = _num_resamples(options)
    single = {"edge-only": edge_right, "cloud-only": cloud_right}
    mid = cached_outputs(EDGE_MODELS[1], task, examples)
    both = [index for index, item in enumerate(examples) if item.id in mid]
    if model != EDGE_MODELS[1] and len(both) >= _MIN_OUTPUTS:
        single[f"{EDGE_MODELS[1]}-for-everything (on {len(both)})"] = np.array(
            [float(mid[examples[index].id].answer.text == examples[index].label) for index in both]
        )
    for label, right in single.items():
        groups = pair.groups if len(right) == len(rows) else pair.groups[both]
        yield from figure_lines(
            f"quality {label} {pair.case}",
            lambda chosen, right=right: float(right[chosen].mean()),
            np.arange(len(right)),
            groups,
            "share right",
            runs,
        )
    yield from pair_lines(pair, judged, rows, runs)


def _num_resamples(options: Options) -> int:
    return 200 if options.quick else 1000
