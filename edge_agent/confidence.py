"""How sure the device is of its own answer: features of the answer, and one number from them.

Everything here comes free with the local answer and needs numpy alone. With a trained scorer the score is its raw
logit. Without one there is a default, uncalibrated but monotone in the model's own belief:

    classify    probability = softmax over the labels' log-probabilities, at the best label
    generate    probability = exp(mean log-probability of the answer's tokens), the geometric mean per token

and the score is the log-odds of that probability, computed without rounding to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge_agent.flow import Confidence, LocalAnswer
from partition.calibration.scorer import Scorer, sigmoid
from partition.task import Task, TaskKind

_MAX_LABELS = 16  # of a task with more, single labels get no feature of their own
_MAX_LOG_ODDS = 700.0  # exp() of more overflows
_MIN_LOG_PROBABILITY = -1000.0  # stands for log 0


def features(answer: LocalAnswer, task: Task) -> tuple[tuple[str, float], ...]:
    """Name and value of each feature of one answer; one that cannot be had is left out.

    ``opt_*`` exist for classify tasks: best probability among the labels, best minus second, entropy over ln(labels),
    probability of all labels together, log-odds of the best against the rest, and the latter once more for the label
    that was chosen, so that a scorer can learn that one label is trusted less. ``lp_*`` are quantiles and the mean of the
    log-probability of the answer's tokens; ``gnll`` the negated sum; ``len_*`` logarithms of token counts.
    """
    found: list[tuple[str, float]] = []
    labels = _label_logs(answer) if task.kind is TaskKind.CLASSIFY else None
    if labels is not None:
        found += _label_features(labels)
    found.append(("first_entropy", answer.first_entropy))
    tokens = _logs(answer.token_log_probabilities)
    if tokens is not None:
        q10, q25 = np.quantile(tokens, [0.1, 0.25])
        found += [
            ("lp_min", float(tokens.min())),
            ("lp_q10", float(q10)),
            ("lp_q25", float(q25)),
            ("lp_mean", float(tokens.mean())),
            ("gnll", float(-tokens.sum())),
        ]
    found += [
        ("len_in", math.log1p(answer.num_input_tokens)),
        ("len_out", math.log1p(answer.num_output_tokens)),
        ("truncated", float(answer.truncated)),
    ]
    return tuple((name, value) for name, value in found if math.isfinite(value))


def assess(answer: LocalAnswer, task: Task, scorer: Scorer | None) -> Confidence:
    """One score and one probability that the local answer is right.

    Args:
        answer: What the local model said.
        task: The task it was asked.
        scorer: The trained scorer of this task and model; None: the default of this module.

    Returns:
        ``score`` is what a certificate's threshold is compared with; ``probability`` is for people.
    """
    found = features(answer, task)
    if scorer is None:
        log_odds = _default_log_odds(answer, task)
        return Confidence(probability=sigmoid(log_odds), score=log_odds, features=found)
    found = scorer.completed(found, answer.hidden)
    score = scorer.score(found)
    return Confidence(probability=scorer.display.probability(score), score=score, features=found)


def _logs(values: Iterable[float]) -> NDArray[np.float64] | None:
    """Log-probabilities ``(n,) float64``, log 0 made finite; None when there are none or one is broken."""
    logs = np.array(tuple(values), dtype=np.float64)
    if not len(logs) or np.isnan(logs).any() or (logs == np.inf).any():
        return None
    return np.maximum(logs, _MIN_LOG_PROBABILITY)


def _label_logs(answer: LocalAnswer) -> NDArray[np.float64] | None:
    logs = _logs(score.log_probability for score in answer.label_scores)
    if logs is None or len(logs) < 2 or (logs <= _MIN_LOG_PROBABILITY).all():
        return None
    return logs


def _label_features(logs: NDArray[np.float64]) -> list[tuple[str, float]]:
    log_total = float(np.logaddexp.reduce(logs))
    log_softmax = logs - log_total
    softmax = np.exp(log_softmax)
    best = int(np.argmax(logs))
    second = float(np.max(np.delete(softmax, best)))
    log_odds = _label_log_odds(logs)
    found = [
        ("opt_max", float(softmax[best])),
        ("opt_margin", float(softmax[best]) - second),
        ("opt_entropy", float(-softmax @ log_softmax) / math.log(len(logs))),
        ("opt_mass", math.exp(min(log_total, 0.0))),
        ("opt_log_odds", log_odds),
    ]
    if len(logs) <= _MAX_LABELS:
        for index in range(len(logs)):
            chosen = index == best
            found.append((f"label_{index}", float(chosen)))
            found.append((f"log_odds_label_{index}", log_odds if chosen else 0.0))
    return found


def _label_log_odds(logs: NDArray[np.float64]) -> float:
    """Log-odds of the best label against all others together."""
    best = int(np.argmax(logs))
    rest = float(np.logaddexp.reduce(np.delete(logs, best)))
    return _bounded(float(logs[best]) - rest)


def _default_log_odds(answer: LocalAnswer, task: Task) -> float:
    if task.kind is TaskKind.CLASSIFY and answer.label_scores:
        labels = _label_logs(answer)
        return -_MAX_LOG_ODDS if labels is None else _label_log_odds(labels)
    tokens = _logs(answer.token_log_probabilities)
    if tokens is None:
        return -_MAX_LOG_ODDS  # nothing was said, or its numbers are broken: nothing to be sure of
    mean = min(float(tokens.mean()), -1e-300)
    return _bounded(mean - math.log(-math.expm1(mean)))


def _bounded(log_odds: float) -> float:
    return max(-_MAX_LOG_ODDS, min(_MAX_LOG_ODDS, log_odds))
