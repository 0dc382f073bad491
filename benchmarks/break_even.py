"""Where VERIFY stops being faster than streaming: the round trip that the formula names, and the one at which the measured cross.

SmolLM2-135M drafts in int8 for itself in bfloat16, one thread each on this machine, over mutual TLS; impressions of reports,
greedy, each prompt new to the cloud. Costs come from both profiles, acceptance and seconds of drafts from other reports; then
both ways are timed at shares of the round trip that was named. Seconds a token are those after the first. With ``--seconds`` in
slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks._cloud_pair import CloudPair, EdgeModel, Timing, cloud_pair
from benchmarks._kept import Kept, build_of
from benchmarks._report_prompts import ReportPrompts, ids_of
from benchmarks.line import Line, Options
from edge_agent.extend.verify import VerifyResult
from partition.extend.draft_length import Acceptance, break_even_round_trip_s, geometric
from partition.planning.cost import Scenario, Workload, cloud, round_costs
from partition.planning.profile import Compute, Link

MODEL = "smollm2-135m-instruct"
LIMIT = 64
BYTES_PER_S = 1.25e6  # ten megabits
SHARES = (0.5, 0.8, 1.1, 1.4)  # of the round trip that the formula names
WAYS = ("verify", "streaming")
_NUM_LEARNT = 3  # reports whose drafts are learnt from; those behind them are timed
_COMPUTE = TypeAdapter(Compute)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    modes = build_of("partition/extend", "partition/generation", "edge_agent/extend")
    kept = Kept(f"break-even-{MODEL}-{LIMIT}-{modes}", options.seconds)
    edge = EdgeModel(MODEL)
    with cloud_pair(MODEL) as pair:
        bench = _Bench(pair, edge, ReportPrompts(options.data), kept)
        if not bench.learn():
            return
        for share in SHARES:
            for report in range(1 if options.quick else 3):
                bench.measure(share, _NUM_LEARNT + report)
    yield from bench.lines()


class _Bench:
    """One pair of models, and what has been measured of it."""

    def __init__(
        self, pair: CloudPair, edge: EdgeModel, prompts: ReportPrompts, kept: Kept
    ) -> None:
        self._pair, self._edge, self._prompts, self._kept = pair, edge, prompts, kept
        self._acceptance = Acceptance()
        self._stood, self._drafting = 0.8, 1.0
        self._num_runs = 0
        self._predicted_s = 0.0
        self._rows: dict[float, list[dict[str, Any]]] = {}

    def learn(self) -> bool:
        """Measure all that the formula needs; False when there is no time for it."""
        kept = self._kept
        with self._pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            device = kept.get("device", lambda: asdict(self._edge.profile()))
            server = kept.get("cloud", lambda: asdict(self._pair.profile()))
            if device is None or server is None:
                return False
            self._device, self._server = map(_COMPUTE.validate_python, (device, server))
            drafts = kept.get("drafts", self._learn_drafts)
        if drafts is None:
            return False
        self._stood, self._drafting = drafts
        scenario = self._scenario(0.0)
        self._predicted_s, _ = break_even_round_trip_s(
            round_costs(scenario), geometric(self._stood), cloud(scenario).tpot_s
        )
        return True

    def _learn_drafts(self) -> tuple[float, float]:
        results = [self._verify(report)[1] for report in range(_NUM_LEARNT)]
        decoded_s = round_costs(self._scenario(0.0)).draft_s
        stood = sum(result.num_accepted for result in results)
        ratios = [result.draft_s / decoded_s for result in results if result.draft_s is not None]
        return (stood + 1) / (sum(r.num_judged for r in results) + 2), float(np.mean(ratios))

    def measure(self, share: float, report: int) -> None:
        """Both ways in turn over one link, for one report."""
        trip_s = share * self._predicted_s
        with self._pair.over(round_trip_s=trip_s, bytes_per_s=BYTES_PER_S):
            row = self._kept.get(f"{share} {report}", partial(self._both, report))
        if row is not None:
            self._rows.setdefault(share, []).append(row)

    def _both(self, report: int) -> dict[str, float]:
        streamed = self._pair.stream(self._text(report), LIMIT)
        verified, _ = self._verify(report)
        return {
            "round_trip_s": self._pair.round_trip_s(),
            "streaming": _later(streamed),
            "verify": _later(verified),
        }

    def _verify(self, report: int) -> tuple[Timing, VerifyResult]:
        prompt = ids_of(self._edge, self._text(report))
        costs = round_costs(self._scenario(0.02))
        return self._pair.verify(
            self._edge, prompt, LIMIT, costs=costs, acceptance=self._acceptance
        )

    def _text(self, report: int) -> str:
        self._num_runs += 1  # a prompt is never sent twice: the cloud would know its beginning
        return self._prompts.text(report, run=self._kept.number(self._num_runs))

    def lines(self) -> Iterator[Line]:
        """Seconds a token by round trip, and the two break-evens."""
        points = []
        for rows in self._rows.values():
            medians = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
            trip_s, verified_s, streamed_s = map(medians.__getitem__, ("round_trip_s", *WAYS))
            points.append((trip_s, verified_s - streamed_s))
            yield Line(
                case=f"verify, after the first token, {1000 * trip_s:.0f} ms {MODEL}",
                ours=1000 * verified_s,
                theirs=1000 * streamed_s,
                peer="tandem cloud streaming",
                unit="ms/token",
                runs=len(rows),
                less_is_better=True,
            )
        crossing_s = _crossing(points)
        if crossing_s is not None:
            yield Line(
                case=f"break-even against streaming, predicted {MODEL}",
                ours=1000 * self._predicted_s,
                theirs=1000 * crossing_s,
                peer="measured",
                unit="ms of round trip",
                runs=len(points),
            )

    def _scenario(self, round_trip_s: float) -> Scenario:
        return Scenario(
            edge=self._device,
            cloud=self._server,
            link=Link(
                round_trip_s=round_trip_s,
                up_bytes_per_s=BYTES_PER_S,
                down_bytes_per_s=BYTES_PER_S,
            ),
            workload=Workload(prompt_tokens=150, output_tokens=LIMIT),
            survival=geometric(self._stood),
            drafting=self._drafting,
        )


def _later(timing: Timing) -> float:
    return (timing.total_s - timing.first_s) / max(1, timing.num_tokens - 1)


def _crossing(points: list[tuple[float, float]]) -> float | None:
    """Where the straight line through points of (round trip, what VERIFY takes longer) is nought."""
    if len(points) < len(SHARES):
        return None
    trips_s, longer_s = np.array(points).T
    slope, constant = np.polyfit(trips_s, longer_s, 1)
    return float(-constant / slope) if slope > 0 else None
