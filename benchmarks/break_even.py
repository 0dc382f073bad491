"""Where VERIFY stops being faster than streaming: the round trip that the cost model names, and where the measured cross.

SmolLM2-135M drafts in int8 for itself in bfloat16, one thread each on this machine, over mutual TLS; impressions of reports,
greedy, each prompt new to the cloud. The model is given both profiles, and the acceptance and seconds of drafts of the timed
answers and their mean length, since reports differ more than links do. Seconds a token are those after the first. With ``--seconds`` in
slices.
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
from edge_agent.extend.verify import VerifyResult
from partition.extend.draft_length import Acceptance, geometric
from partition.planning.cost import Scenario, Workload, cloud, round_costs, verify
from partition.planning.profile import Compute, Link

MODEL = "smollm2-135m-instruct"
LIMIT = 48
BYTES_PER_S = 1.25e6  # ten megabits
TRIPS_MS = (150, 250, 350, 450)
WAYS = ("verify", "streaming")
_REPORTS = range(4, 7)  # with impressions long enough for several rounds
_COMPUTE = TypeAdapter(Compute)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    modes = build_of(*JOINT_MODES)
    kept = Kept(f"break-even-{MODEL}-{LIMIT}-{modes}", options.seconds)
    edge = EdgeModel(MODEL)
    with cloud_pair(MODEL) as pair:
        bench = _Bench(pair, edge, ReportPrompts(options.data), kept)
        if not bench.profiled():
            return
        for trip_ms in TRIPS_MS:
            for report in _REPORTS[:1] if options.quick else _REPORTS:
                bench.measure(trip_ms, report)
    yield from bench.lines()


class _Bench:
    """One pair of models, and what has been measured of it."""

    def __init__(
        self, pair: CloudPair, edge: EdgeModel, prompts: ReportPrompts, kept: Kept
    ) -> None:
        self._pair, self._edge, self._prompts, self._kept = pair, edge, prompts, kept
        self._acceptance = Acceptance()
        self._num_runs = 0
        self._rows: dict[int, list[dict[str, Any]]] = {}

    def profiled(self) -> bool:
        """Measure both models; False when there is no time for it."""
        kept = self._kept
        with self._pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            device = kept.get("device", lambda: asdict(self._edge.profile()))
            server = kept.get("cloud", lambda: asdict(self._pair.profile()))
            if device is None or server is None:
                return False
            self._device, self._server = map(_COMPUTE.validate_python, (device, server))
        return True

    def measure(self, trip_ms: int, report: int) -> None:
        """Both ways in turn over one link, for one report."""
        with self._pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=BYTES_PER_S):
            row = self._kept.get(f"{trip_ms} {report}", partial(self._both, report, trip_ms / 1000))
        if row is not None:
            self._rows.setdefault(trip_ms, []).append(row)

    def _both(self, report: int, trip_s: float) -> dict[str, Any]:
        streamed = self._pair.stream(self._text(report), LIMIT)
        verified, result = self._verify(report, trip_s)
        return {
            "round_trip_s": self._pair.round_trip_s(),
            "streaming": _later(streamed),
            "verify": _later(verified),
            "judged": result.num_judged,
            "accepted": result.num_accepted,
            "draft_s": result.draft_s,
        }

    def _verify(self, report: int, trip_s: float) -> tuple[Timing, VerifyResult]:
        prompt = ids_of(self._edge, self._text(report))
        costs = round_costs(self._scenario(trip_s))
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
            trip_s = float(np.median([row["round_trip_s"] for row in rows]))
            verified_s, streamed_s = (
                _seconds_per_token([row[way] for row in rows]) for way in WAYS
            )
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
            every = [row for rows in self._rows.values() for row in rows]
            stood = sum(row["accepted"] for row in every) / sum(row["judged"] for row in every)
            draft_s = float(np.mean([row["draft_s"] for row in every]))
            num_tokens = round(float(np.mean([row["verify"][1] + 1 for row in every])))
            yield Line(
                case=f"accepted {MODEL}", ours=stood, unit="share of judged drafts", runs=len(every)
            )
            yield Line(
                case=f"break-even against streaming, predicted {MODEL}",
                ours=1000 * self._break_even_s(stood, draft_s, num_tokens),
                theirs=1000 * crossing_s,
                peer="measured",
                unit="ms of round trip",
                runs=len(points),
            )

    def _break_even_s(self, acceptance: float, draft_s: float, num_tokens: int) -> float:
        scenario = replace(
            self._scenario(0.0, num_tokens),
            survival=geometric(acceptance),
            drafting=draft_s / round_costs(self._scenario(0.0)).draft_s,
        )

        def longer_s(trip_s: float) -> float:
            there = replace(scenario, link=self._scenario(trip_s).link)
            return verify(there).tpot_s - cloud(there).tpot_s

        near, far = 0.0, 10.0
        for _ in range(40):
            middle = (near + far) / 2
            near, far = (near, middle) if longer_s(middle) > 0 else (middle, far)
        return near

    def _scenario(self, trip_s: float, num_tokens: int = LIMIT) -> Scenario:
        return Scenario(
            edge=self._device,
            cloud=self._server,
            link=Link(
                round_trip_s=trip_s, up_bytes_per_s=BYTES_PER_S, down_bytes_per_s=BYTES_PER_S
            ),
            workload=Workload(prompt_tokens=150, output_tokens=num_tokens),
        )


def _later(timing: Timing) -> tuple[float, int]:
    """Seconds and tokens after the first."""
    return timing.total_s - timing.first_s, timing.num_tokens - 1


def _seconds_per_token(timings: list[tuple[float, int]]) -> float:
    """A ratio of sums, as the formula has it: a short answer is mostly its last, cut round."""
    return sum(seconds for seconds, _ in timings) / max(1, sum(count for _, count in timings))


def _crossing(points: list[tuple[float, float]]) -> float | None:
    """Where the straight line through points of (round trip, what VERIFY takes longer) is nought."""
    if len(points) < len(TRIPS_MS):
        return None
    trips_s, longer_s = np.array(points).T
    slope, constant = np.polyfit(trips_s, longer_s, 1)
    return float(-constant / slope) if slope > 0 else None
