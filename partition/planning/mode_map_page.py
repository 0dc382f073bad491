"""A page of drawings of where each mode wins, as HTML that needs nothing else. Needs matplotlib."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from partition.planning.cost import Mode, Scenario
from partition.planning.mode_map import ROUND_TRIPS_S, ModeMap, best_of_mode, map_modes, plan_over
from partition.planning.planner import PRIVACY_STATEMENT, Constraints, Plan, Weights

# Okabe and Ito's colours, told apart with every common colour blindness.
COLOURS = {
    Mode.LOCAL: "#009e73",
    Mode.CASCADE: "#56b4e9",
    Mode.CLOUD: "#0072b2",
    Mode.VERIFY: "#e69f00",
    Mode.SPLIT: "#d55e00",
}
_NOTHING = "#dddddd"
_LINE_STYLES = {
    Mode.VERIFY: (0, (4, 3))
}  # its first token comes with the cloud's: one line on the other
_STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",  # text stays text: searchable, and read aloud
    "svg.hashsalt": "tandem",  # the same profile gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Where each mode wins</title>
<style>body{{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}}
svg{{max-width:100%;height:auto}}h2{{margin-top:2.5rem}}small{{color:#555}}</style></head>
<body><h1>Where each mode wins</h1><p>{summary}</p><p><strong>Now:</strong> {reason}</p>{sections}
<p><small>{privacy}</small></p></body></html>
"""


def mode_page(scenario: Scenario, constraints: Constraints, weights: Weights, plan: Plan) -> str:
    """Draw a scenario that has a cloud and a link.

    Args:
        scenario: Of one task on one device.
        constraints: What is allowed now.
        weights: The operator's.
        plan: Of that scenario as it is.
    """
    leaving = Constraints(may_stay_local=False, same_tokenizer=constraints.same_tokenizer)
    speed = Weights(per_exposure=0.0, per_dollar=0.0, per_joule=0.0, per_megabyte=0.0)
    split_too = Constraints(
        may_stay_local=False, same_tokenizer=constraints.same_tokenizer, allow_split=True
    )
    sections = [
        (
            "The choice over links, as policy and weights are",
            "Every cell is a whole plan: the least weighted cost of what is allowed.",
            _map(scenario, map_modes(scenario, constraints, weights)),
        ),
        (
            "The fastest way to the cloud's answer, for a request that leaves",
            "Time alone: nothing weighs but seconds, and the device may not answer by itself.",
            _map(scenario, map_modes(scenario, leaving, speed)),
        ),
    ]
    if scenario.edge_layers is not None:
        sections.append(
            (
                "The same, were a split allowed",
                "What is not in this picture never wins on time, not even the best cut.",
                _map(scenario, map_modes(scenario, split_too, speed)),
            )
        )
    sections += [
        (
            "Seconds of the whole answer against the round trip",
            "At the profile's bandwidth; of a split the best cut. A cloud pays the round trip once, a split for every token.",
            _lines(scenario, lambda p: p.total_s, "seconds of the answer"),
        ),
        (
            "Seconds to the first token against the round trip",
            "A cascade's first token is there when its whole local answer is.",
            _lines(scenario, lambda p: p.ttft_s, "seconds to the first token"),
        ),
    ]
    work = scenario.workload
    summary = (
        f"{scenario.edge.model} on the device, {scenario.cloud.model if scenario.cloud else 'no model'} in the cloud; "
        f"{work.prompt_tokens} tokens in, {work.output_tokens} out. The cross is the link as it was measured."
    )
    return _PAGE.format(
        summary=html.escape(summary),
        reason=html.escape(plan.reason),
        sections="".join(
            f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{svg}"
            for title, text, svg in sections
        ),
        privacy=html.escape(PRIVACY_STATEMENT),
    )


def _map(scenario: Scenario, found: ModeMap) -> str:
    order = list(Mode)
    cells = np.array(
        [[len(order) if m is None else order.index(m) for m in row] for row in found.chosen]
    )
    colours = ListedColormap([*(COLOURS[mode] for mode in order), _NOTHING])

    def draw(axes: Axes) -> None:
        axes.pcolormesh(
            [1000 * trip for trip in found.round_trips_s],
            [rate / 125_000 for rate in found.uplinks_bytes_per_s],
            cells,
            cmap=colours,
            norm=BoundaryNorm(np.arange(-0.5, len(order) + 1), len(order) + 1),
            shading="nearest",
            rasterized=True,
        )
        axes.set(xscale="log", yscale="log")
        _plain_ticks(axes)
        axes.set_xlabel("round trip, ms")
        axes.set_ylabel("uplink, Mbit/s")
        if scenario.link is not None:
            x, y = 1000 * scenario.link.round_trip_s, scenario.link.up_bytes_per_s / 125_000
            axes.plot([x], [y], "x", color="black", markersize=9, markeredgewidth=2)
        patches = [Patch(color=COLOURS[mode], label=mode.value) for mode in found.modes]
        axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5)

    return _svg(draw, "Map of the chosen mode over round trip and uplink")


def _lines(scenario: Scenario, value: Callable[[Any], float], label: str) -> str:
    every = Constraints(allow_split=True)
    plans = [plan_over(scenario, every, Weights(), round_trip_s=trip) for trip in ROUND_TRIPS_S]

    def draw(axes: Axes) -> None:
        for mode in Mode:
            points = [best_of_mode(plan, mode) for plan in plans]
            if points[0] is not None:
                axes.plot(
                    [1000 * trip for trip in ROUND_TRIPS_S],
                    [np.nan if point is None else value(point) for point in points],
                    color=COLOURS[mode],
                    linewidth=2,
                    linestyle=_LINE_STYLES.get(mode, "solid"),
                    label=mode.value,
                )
        axes.set(xscale="log", yscale="log")
        _plain_ticks(axes, marks_of_seconds=(1.0, 2.0, 5.0))
        axes.grid(visible=True, color="#e4e4e4")
        axes.set_xlabel("round trip, ms")
        axes.set_ylabel(label)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5)

    return _svg(draw, f"{label} of each mode against the round trip")


def _plain_ticks(axes: Axes, marks_of_seconds: tuple[float, ...] = (1.0,)) -> None:
    """Numbers as people write them, 0.5 and not five times ten to the minus one."""
    for axis, marks in ((axes.xaxis, (1.0,)), (axes.yaxis, marks_of_seconds)):
        axis.set_major_locator(LogLocator(subs=marks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _svg(draw: Callable[[Axes], None], description: str) -> str:
    """One drawing as an ``<svg>`` element that scales with the page."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
