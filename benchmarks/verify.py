"""VERIFY against the cloud's own streaming and against one token a round trip: tokens a second over a shaped link.

Both sides run on this machine, one thread each, over mutual TLS; impressions of reports, greedy, each prompt new to the cloud.
``break-even`` is the round trip at which VERIFY and streaming should be equally fast by the formula, from measured costs and
acceptance; ``break_even`` shows that they are, for a pair that has time for it. With ``--seconds`` in slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks._cloud_pair import CloudPair, EdgeModel, Timing, cloud_pair, no_drafts
from benchmarks._kept import JOINT_MODES, Kept, build_of
from benchmarks._report_prompts import ReportPrompts, ids_of
from benchmarks.line import Line, Options
from partition.extend.draft_length import Acceptance, RoundCosts, break_even_round_trip_s, geometric
from partition.planning.cost import Scenario, Workload, cloud, round_costs
from partition.planning.profile import Compute, Link

PAIRS = {
    False: ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"),
    True: ("smollm2-135m-instruct", "smollm2-135m-instruct"),
}
BYTES_PER_S = 1.25e6  # ten megabits
MODES = ("verify", "cloud streaming", "one token a round trip")
_COMPUTE = TypeAdapter(Compute)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    small, large = PAIRS[options.quick]
    limit = 24 if options.quick else 48
    modes = build_of(*JOINT_MODES)
    kept = Kept(f"verify-{small}-{large}-{limit}-{modes}", options.seconds)
    prompts = ReportPrompts(options.data)
    edge = EdgeModel(small)
    with cloud_pair(large) as pair:
        bench = _Bench(pair, edge, prompts, kept, limit)
        if not bench.profiled():
            return
        bench.measure(50, MODES, range(2 if options.quick else 6))
        yield from bench.lines(50, large)
        yield from bench.break_even(large)


class _Bench:
    """One pair of models, and what has been measured of it."""

    def __init__(
        self, pair: CloudPair, edge: EdgeModel, prompts: ReportPrompts, kept: Kept, limit: int
    ) -> None:
        self._pair, self._edge, self._prompts = pair, edge, prompts
        self._kept, self._limit = kept, limit
        self._acceptance = Acceptance()  # an agent learns it from one answer to the next
        self._rows: dict[tuple[int, str], list[dict[str, Any]]] = {}

    def profiled(self) -> bool:
        """Measure both models; False when there is no time for it."""
        with self._pair.over(round_trip_s=0.0, bytes_per_s=1e9):
            device = self._kept.get("device", lambda: asdict(self._edge.profile()))
            large = self._kept.get("cloud", lambda: asdict(self._pair.profile()))
        if device is None or large is None:
            return False
        self._device, self._cloud = map(_COMPUTE.validate_python, (device, large))
        return True

    def measure(self, trip_ms: int, modes: tuple[str, ...], reports: range) -> None:
        """Some modes in turn for each report, as far as time allows."""
        with self._pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=BYTES_PER_S):
            costs = round_costs(self._scenario(self._pair.round_trip_s(), self._limit))
            for report in reports:
                found = [
                    self._kept.get(
                        f"{trip_ms} {report} {mode}", partial(self._one, report, number, costs)
                    )
                    for number, mode in enumerate(modes)
                ]
                if None in found:
                    return
                for mode, row in zip(modes, found, strict=True):
                    self._rows.setdefault((trip_ms, mode), []).append(row)

    def _one(self, report: int, number: int, costs: RoundCosts) -> dict[str, Any]:
        text = self._prompts.text(report, run=number)
        if MODES[number] == "cloud streaming":
            return _row(self._pair.stream(text, self._limit))
        timing, result = self._pair.verify(
            self._edge,
            ids_of(self._edge, text),
            self._limit,
            costs=no_drafts(costs) if number else costs,
            acceptance=None if number else self._acceptance,
        )
        return {
            **_row(timing),
            "rounds": result.num_rounds,
            "drafted": result.num_drafted,
            "judged": result.num_judged,
            "draft_s": result.draft_s,
            "accepted": result.num_accepted,
        }

    def lines(self, trip_ms: int, model: str) -> Iterator[Line]:
        """What came of one round trip."""
        rows = {mode: self._rows.get((trip_ms, mode), []) for mode in MODES}
        count = len(rows[MODES[0]])
        if not count:
            return
        where = f"{trip_ms} ms {model}"
        for what, rate in (("whole answer", _whole), ("after the first token", _later)):
            ours = float(np.median([rate(row) for row in rows["verify"]]))
            for peer in MODES[1:]:
                if not rows[peer]:
                    continue
                yield Line(
                    case=f"verify {where}, {what}, against {peer}",
                    ours=ours,
                    theirs=float(np.median([rate(row) for row in rows[peer]])),
                    peer=f"tandem {peer}",
                    unit="tokens/s",
                    runs=min(count, len(rows[peer])),
                )
        total = {
            key: sum(row[key] for row in rows["verify"])
            for key in ("tokens", "rounds", "drafted", "judged", "accepted")
        }
        yield Line(
            case=f"accepted {where}",
            ours=total["accepted"] / max(1, total["judged"]),
            unit="share of judged drafts",
            runs=total["judged"],
        )
        yield Line(
            case=f"tokens-a-pass {where}",
            ours=total["tokens"] / total["rounds"],
            unit="tokens",
            runs=total["rounds"],
        )

    def break_even(self, model: str) -> Iterator[Line]:
        """Where the formula puts the break-even."""
        rows = [row for (_, mode), found in self._rows.items() if mode == "verify" for row in found]
        if not rows:
            return
        acceptance = sum(row["accepted"] for row in rows) / max(1, sum(r["judged"] for r in rows))
        scenario = self._scenario(0.0, self._limit)
        streaming_s = cloud(scenario).tpot_s
        draft_s = float(np.mean([row["draft_s"] for row in rows]))
        costs = replace(round_costs(scenario), draft_s=draft_s)
        at_s, length = break_even_round_trip_s(costs, geometric(acceptance), streaming_s)
        yield Line(case=f"break-even {model}", ours=1000 * at_s, unit="ms", runs=len(rows))
        yield Line(case=f"break-even draft {model}", ours=float(length), unit="tokens", runs=1)

    def _scenario(self, round_trip_s: float, output_tokens: int) -> Scenario:
        return Scenario(
            edge=self._device,
            cloud=self._cloud,
            link=Link(
                round_trip_s=round_trip_s,
                up_bytes_per_s=BYTES_PER_S,
                down_bytes_per_s=BYTES_PER_S,
            ),
            workload=Workload(prompt_tokens=150, output_tokens=output_tokens),
        )


def _row(timing: Timing) -> dict[str, Any]:
    return {"tokens": timing.num_tokens, "first_s": timing.first_s, "total_s": timing.total_s}


def _whole(row: dict[str, Any]) -> float:
    return float(row["tokens"] / row["total_s"])


def _later(row: dict[str, Any]) -> float:
    return float((row["tokens"] - 1) / max(1e-9, row["total_s"] - row["first_s"]))
