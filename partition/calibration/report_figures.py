"""The drawings of the calibration report, as SVG text. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from partition.calibration.binomial import share_interval
from partition.calibration.threshold_search import Sample

# Okabe and Ito's colours, told apart with every common colour blindness.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#666666"
_SIZE_INCHES = (6.4, 4.0)
_STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",  # text stays text: searchable, and read aloud
    "svg.hashsalt": "tandem",  # the same records give the same bytes
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": "#1c2530",
    "axes.labelcolor": "#5a6675",
    "axes.edgecolor": "#c3ccd6",
    "xtick.color": "#5a6675",
    "ytick.color": "#5a6675",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceff3",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curve:
    """Quality of all answers together against the share that goes to the cloud."""

    label: str
    shares: NDArray[np.float64]
    quality: NDArray[np.float64]
    colour: str
    style: str = "-"


def risk_coverage(
    test: Sample,
    *,
    max_error: float,
    delta: float,
    threshold: float | None,
    points: Sequence[float],
) -> str:
    """Error among local answers against their share, with the upper bound and the limit."""

    def draw(axes: Axes) -> None:
        size = len(test)
        n = np.unique(np.linspace(1, size, min(size, 400)).astype(int))
        accepted = [test.accepted(float(test.scores[count - 1])) for count in n]
        shares = np.array([item.n for item in accepted]) / size
        observed = np.array([item.errors / item.n for item in accepted])
        upper = np.array([test.upper_bound(item, delta) for item in accepted])
        axes.fill_between(shares, observed, upper, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(shares, upper, color=BLUE, linewidth=1, linestyle="--", label="upper bound")
        axes.plot(shares, observed, color=BLUE, linewidth=2, label="observed")
        axes.axhline(max_error, color=RED, linewidth=1.5, label="highest error allowed")
        tried = [test.accepted(point) for point in points]
        tried = [item for item in tried if item.n]
        axes.scatter(
            [item.n / size for item in tried],
            [item.errors / item.n for item in tried],
            s=10,
            color=GREY,
            zorder=3,
            label="candidates",
        )
        if threshold is not None:
            chosen = test.accepted(threshold)
            axes.scatter(
                [chosen.n / size],
                [chosen.errors / chosen.n],
                s=90,
                color=GREEN,
                edgecolor="white",
                zorder=4,
                label="certified threshold",
            )
        axes.set_ylim(0, max(4 * max_error, 1.15 * float(observed.max())))
        axes.set_xlim(0, 1.01)
        axes.set_xlabel("share of requests answered on the device")
        axes.set_ylabel("share of those answers that is wrong")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="upper left")

    return _svg(
        draw,
        "Error among local answers against the share answered locally, with its upper bound and the limit",
    )


def reliability(
    probabilities: NDArray[np.float64], right: NDArray[np.float64], *, num_bins: int = 10
) -> str:
    """Stated probability against the share that was right, in bins of equal mass."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect")
        order = np.argsort(probabilities, kind="stable")
        for index, part in enumerate(np.array_split(order, num_bins)):
            if not len(part):
                continue
            stated, share = float(probabilities[part].mean()), float(right[part].mean())
            low, high = share_interval(round(float(right[part].sum())), len(part))
            axes.plot([stated, stated], [low, high], color=BLUE, linewidth=1.5)
            axes.scatter(
                [stated],
                [share],
                s=40,
                color=BLUE,
                zorder=3,
                label="a tenth of the answers, with 95 % interval" if index == 0 else None,
            )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("stated probability of being right")
        axes.set_ylabel("share that was right")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="upper left")

    return _svg(draw, "Stated probability of being right against the share that was right")


def cost_quality(curves: Sequence[Curve], *, chosen: tuple[float, float] | None) -> str:
    """Quality of all answers against the share of requests sent to the cloud."""

    def draw(axes: Axes) -> None:
        for curve in curves:
            axes.plot(
                curve.shares,
                curve.quality,
                color=curve.colour,
                linestyle=curve.style,
                linewidth=2,
                label=curve.label,
            )
        if chosen is not None:
            axes.scatter(
                [chosen[0]],
                [chosen[1]],
                s=90,
                color=GREEN,
                edgecolor="white",
                zorder=4,
                label="certified threshold",
            )
        axes.set_xlim(0, 1.01)
        axes.set_xlabel("share of requests sent to the cloud")
        axes.set_ylabel("right answers of both tiers together")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower right")

    return _svg(draw, "Share of right answers against the share of requests sent to the cloud")


def score_histogram(test: Sample, *, threshold: float | None) -> str:
    """How scores are spread, right and wrong answers apart."""

    def draw(axes: Axes) -> None:
        right, wrong = test.scores[test.losses < 0.5], test.scores[test.losses >= 0.5]
        # The outermost half per cent would squeeze everything else; it is drawn into the end bins.
        low, high = np.quantile(test.scores, [0.005, 0.995])
        if threshold is not None:
            low, high = min(low, threshold), max(high, threshold)
        margin = float(high - low) * 0.02 or 0.5
        edges = np.linspace(low - margin, high + margin, 41)
        axes.hist(
            [np.clip(right, edges[0], edges[-1]), np.clip(wrong, edges[0], edges[-1])],
            bins=edges.tolist(),
            stacked=True,
            color=[BLUE, ORANGE],
            label=["right", "wrong"],
        )
        if threshold is not None:
            axes.axvline(threshold, color=GREEN, linewidth=2, label="threshold: local to its right")
        axes.set_xlabel("score (higher: surer)")
        axes.set_ylabel("test answers")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)

    return _svg(draw, "Histogram of scores, right and wrong answers stacked, with the threshold")


def _svg(draw: Callable[[Axes], None], description: str) -> str:
    """One drawing as an ``<svg>`` element that scales with the page; ``description`` is ours, not the records'."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)
    return element.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
