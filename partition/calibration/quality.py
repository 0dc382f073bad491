"""How good a score is at telling right from wrong answers, and a pair of models at sharing the work.

Definitions as published: AUROC, AURC and its excess (arXiv 1805.08206), ECE on equal-mass bins, and the routing figures
of RouteLLM (arXiv 2406.18665). ``score`` is higher when surer, ``right`` is boolean, both ``(n,)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


def auroc(score: Numbers, right: Flags) -> float:
    """P(a right answer scores above a wrong one) + half the ties; NaN when all are right or all wrong."""
    num_right = int(right.sum())
    num_wrong = len(right) - num_right
    if num_right == 0 or num_wrong == 0:
        return float("nan")
    wrong = np.sort(score[~right])
    below = np.searchsorted(wrong, score[right], side="left")
    up_to = np.searchsorted(wrong, score[right], side="right")
    return float((below + up_to).sum()) / (2.0 * num_right * num_wrong)


def aurc(score: Numbers, right: Flags) -> float:
    """Mean, over i, of the error rate among the i surest."""
    errors = np.cumsum(~right[np.argsort(-score, kind="stable")])
    return float(np.mean(errors / np.arange(1, len(right) + 1)))


def excess_aurc(score: Numbers, right: Flags) -> float:
    """AURC above that of a score which puts every error last."""
    best = np.sort(~right).astype(bool)  # right ones first
    ideal = np.mean(np.cumsum(best) / np.arange(1, len(right) + 1))
    return aurc(score, right) - float(ideal)


def calibration_error(probability: Numbers, right: Flags, num_bins: int = 10) -> float:
    """ECE: mean gap between the stated probability and the share that is right, over bins of equal mass."""
    order = np.argsort(probability, kind="stable")
    gaps = [
        abs(float(right[part].sum()) - float(probability[part].sum()))
        for part in np.array_split(order, num_bins)
        if len(part)
    ]
    return sum(gaps) / len(right)


def brier(probability: Numbers, right: Flags) -> float:
    """Mean squared difference between the stated probability and the outcome."""
    return float(np.mean((probability - right) ** 2))


def quality_by_cloud_share(
    score: Numbers, edge_right: Numbers, cloud_right: Numbers
) -> tuple[Numbers, Numbers]:
    """Share sent to the cloud, least sure first, and the quality of all answers together.

    Returns:
        Shares ``(n + 1,)`` from 0 to 1, and mean quality ``(n + 1,)`` at each.
    """
    order = np.argsort(score, kind="stable")
    gains = np.concatenate(([0.0], np.cumsum((cloud_right - edge_right)[order])))
    size = len(score)
    return np.arange(size + 1) / size, (edge_right.sum() + gains) / size


def apgr(shares: Numbers, quality: Numbers) -> float:
    """Area under the recovered part of the gap between edge-only and cloud-only; .5 is a coin, undefined without a gap.

    Trapezoids over every share; both arrays go from 0 to 1 of the requests sent.
    """
    gap = quality[-1] - quality[0]
    if gap <= 0:
        return float("nan")
    recovered = (quality - quality[0]) / gap
    return float(np.sum(np.diff(shares) * (recovered[1:] + recovered[:-1]) / 2))


def cloud_share_for(shares: Numbers, quality: Numbers, recovered: float) -> float:
    """CPT: least cloud share that recovers this part of the gap (0.5 or 0.8); NaN without a gap."""
    gap = quality[-1] - quality[0]
    if gap <= 0:
        return float("nan")
    reached = (quality - quality[0]) / gap >= recovered - 1e-12
    return float(shares[int(np.argmax(reached))])
