"""How far the cost model is from what really happens, and whether the planner picks what is really fastest.

Predicted against measured seconds of whole answers, for local, cascade, cloud, verify and split, over round trips and
bandwidths; device and cloud on this machine, one thread each. Everything that a prediction uses is measured before: both models
and the split's layers as ``edge-agent profile`` does, each link by the probe, acceptance and seconds of drafts on other reports.
In the cascade the device answers every report, and the cloud after it every second; that share stands for a certificate's. An
error is that of a cell: one mode over one link, the mean of its answers. ``choice`` is among the modes of a request that
leaves, and among all. With ``--seconds`` in slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks._cloud_pair import CloudPair, EdgeModel, Timing, cloud_pair
from benchmarks._kept import JOINT_MODES, Kept, build_of
from benchmarks._report_prompts import ReportPrompts, ids_of
from benchmarks.line import Line, Options
from edge_agent.extend.first_layers import FirstLayers
from partition.extend.activations import Codec
from partition.extend.draft_length import Acceptance, geometric
from partition.planning.cost import (
    Mode,
    Prediction,
    Routing,
    Scenario,
    Workload,
    cascade,
    cloud,
    local,
    round_costs,
    split,
    verify,
)
from partition.planning.profile import Compute, Link

MODEL = "smollm2-135m-instruct"
OUTPUT_TOKENS = 16
CUT = 15
CODEC = Codec.INT8
MODES = (Mode.LOCAL, Mode.CASCADE, Mode.CLOUD, Mode.VERIFY, Mode.SPLIT)
STAYING = frozenset({Mode.LOCAL, Mode.CASCADE})  # modes that begin with the device's own answer
UNSURE_EVERY = 2  # of how many reports the cloud answers one in the cascade
_FIRST_MEASURED = 20  # reports before it are for the acceptance
_NEAR = 1.05  # a choice this close to the best is as good
_COMPUTE = TypeAdapter(Compute)
_LINK = TypeAdapter(Link)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    trips = (0, 50) if options.quick else (0, 20, 50, 100)
    rates = (10,) if options.quick else (1, 10, 100)
    modes = build_of(*JOINT_MODES)
    kept = Kept(f"plan-accuracy-{MODEL}-{OUTPUT_TOKENS}-{modes}", options.seconds)
    edge = EdgeModel(MODEL)
    layers = edge.layers(CUT)
    with cloud_pair(MODEL) as pair:
        grid = _Grid(pair, edge, layers, ReportPrompts(options.data), kept)
        if grid.profiled():
            for report in range(UNSURE_EVERY):
                for trip_ms in trips:
                    for mbit in rates:
                        grid.measure(trip_ms, mbit, report)
    yield from grid.lines()


class _Grid:
    """Links by modes, and what was measured of each."""

    def __init__(
        self,
        pair: CloudPair,
        edge: EdgeModel,
        layers: FirstLayers,
        prompts: ReportPrompts,
        kept: Kept,
    ) -> None:
        self._pair, self._edge, self._layers = pair, edge, layers
        self._prompts, self._kept = prompts, kept
        self._num_runs = 0
        self._learnt = Acceptance()
        self._found: dict[tuple[int, int], list[dict[Mode, tuple[float, float]]]] = {}

    def profiled(self) -> bool:
        """Measure what predictions need; False when there is no time for it."""
        kept, pair = self._kept, self._pair
        with pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            values = [
                kept.get("device", lambda: asdict(self._edge.profile())),
                kept.get("layers", lambda: asdict(self._edge.profile_layers())),
                kept.get("cloud", lambda: asdict(pair.profile())),
            ]
            if None in values:
                return False
            self._device, self._device_layers, self._server = map(_COMPUTE.validate_python, values)
            self._acceptance, self._drafting = 0.8, 1.0
            drafts = kept.get("drafts", self._measure_drafts)
        if drafts is None:
            return False
        self._acceptance, self._drafting = drafts
        return True

    def measure(self, trip_ms: int, mbit: int, report: int) -> None:
        """Every mode in turn over one link, for one report."""
        rate = mbit * 125_000.0
        with self._pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=rate):
            link = self._kept.get(
                f"link {trip_ms} {mbit}", lambda: asdict(self._pair.link(bytes_per_s=rate))
            )
            if link is None:
                return
            known = _LINK.validate_python(link)
            rows = {
                mode: self._kept.get(
                    f"{trip_ms} {mbit} {report} {mode}", partial(self._one, mode, report, known)
                )
                for mode in MODES
            }
        if None in rows.values():
            return
        self._found.setdefault((trip_ms, mbit), []).append(
            {
                mode: (self._predict(mode, known, row).total_s, row["total_s"])
                for mode, row in rows.items()
            }
        )

    def _one(self, mode: Mode, report: int, link: Link) -> dict[str, Any]:
        self._num_runs += 1  # a prompt is never sent twice: the cloud would know its beginning
        run = self._kept.number(self._num_runs)
        text = self._prompts.text(_FIRST_MEASURED + report, run=run)
        prompt = ids_of(self._edge, text)
        timing: Timing
        counts: dict[str, int] = {}
        if mode is Mode.LOCAL:
            timing = self._edge.write(prompt, OUTPUT_TOKENS)
        elif mode is Mode.CASCADE:
            timing = self._edge.write(prompt, OUTPUT_TOKENS)
            if _is_unsure(report):
                own_s = timing.total_s
                timing = self._pair.stream(text, OUTPUT_TOKENS)
                timing = replace(timing, total_s=own_s + timing.total_s)
        elif mode is Mode.CLOUD:
            timing = self._pair.stream(text, OUTPUT_TOKENS)
        elif mode is Mode.VERIFY:
            costs = round_costs(self._scenario(link, len(prompt), OUTPUT_TOKENS))
            timing, result = self._pair.verify(
                self._edge, prompt, OUTPUT_TOKENS, costs=costs, acceptance=self._learnt
            )
            counts = {
                "rounds": result.num_rounds,
                "drafted": result.num_drafted,
                "accepted": result.num_accepted,
            }
        else:
            timing, _ = self._pair.split(self._layers, prompt, OUTPUT_TOKENS, codec=CODEC)
        return {
            "prompt": len(prompt),
            "tokens": timing.num_tokens,
            "first_s": timing.first_s,
            "total_s": timing.total_s,
            **counts,
        }

    def _predict(self, mode: Mode, link: Link, row: dict[str, Any]) -> Prediction:
        scenario = self._scenario(link, row["prompt"], max(1, row["tokens"]))
        if mode is Mode.SPLIT:
            return split(scenario, CUT)
        if mode is Mode.CASCADE:
            return cascade(scenario)
        return {Mode.LOCAL: local, Mode.CLOUD: cloud, Mode.VERIFY: verify}[mode](scenario)

    def _scenario(self, link: Link, prompt_tokens: int, output_tokens: int) -> Scenario:
        return Scenario(
            edge=self._device,
            edge_layers=self._device_layers,
            cloud=self._server,
            link=link,
            workload=Workload(prompt_tokens=prompt_tokens, output_tokens=output_tokens),
            routing=Routing(local_share=1 - 1 / UNSURE_EVERY, local_quality=0.95),
            survival=geometric(self._acceptance),
            drafting=self._drafting,
            codec=CODEC,
        )

    def _measure_drafts(self) -> tuple[float, float]:
        """How often drafts stand, and what one takes, of the seconds that the profile says."""
        link = Link(round_trip_s=0.02, up_bytes_per_s=1e9, down_bytes_per_s=1e9)
        stood = judged = 0
        ratios = []
        for report in range(6):
            prompt = ids_of(self._edge, self._prompts.text(report))
            costs = round_costs(self._scenario(link, len(prompt), OUTPUT_TOKENS))
            _, result = self._pair.verify(
                self._edge, prompt, OUTPUT_TOKENS, costs=costs, acceptance=self._learnt
            )
            stood += result.num_accepted
            judged += result.num_judged
            if result.draft_s is not None:
                ratios.append(result.draft_s / costs.draft_s)
        return (stood + 1) / (judged + 2), float(np.mean(ratios or [1.0]))

    def lines(self) -> Iterator[Line]:
        """Errors by cell, over the grid, and how good the choice was."""
        errors: list[float] = []
        near: dict[bool, list[bool]] = {False: [], True: []}
        for (trip_ms, mbit), rows in self._found.items():
            means = {
                mode: tuple(float(np.mean([row[mode][part] for row in rows])) for part in (0, 1))
                for mode in MODES
            }
            for mode, (predicted, measured) in means.items():
                errors.append(abs(predicted / measured - 1))
                yield Line(
                    case=f"{mode} {trip_ms} ms {mbit} Mbit/s {MODEL}",
                    ours=predicted,
                    theirs=measured,
                    peer="measured",
                    unit="s predicted",
                    runs=len(rows),
                )
            for leaves in near:
                near[leaves].append(
                    _is_near_best(
                        {m: v for m, v in means.items() if m not in STAYING or not leaves}
                    )
                )
        if not errors:
            return
        count = len(errors)
        yield Line(case="error median", ours=float(np.median(errors)), unit="share", runs=count)
        yield Line(case="error p90", ours=float(np.quantile(errors, 0.9)), unit="share", runs=count)
        for leaves, where in ((True, "that leave"), (False, "all")):
            yield Line(
                case=f"choice within 5 % of the fastest, modes {where}",
                ours=float(np.mean(near[leaves])),
                unit="share of cells",
                runs=len(near[leaves]),
            )


def _is_unsure(report: int) -> bool:
    return report % UNSURE_EVERY == 0


def _is_near_best(means: dict[Mode, tuple[float, ...]]) -> bool:
    """Whether the mode predicted fastest was within 5 % of the one measured fastest."""
    chosen = min(means, key=lambda mode: means[mode][0])
    return means[chosen][1] <= _NEAR * min(measured for _, measured in means.values())
