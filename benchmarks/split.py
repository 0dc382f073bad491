"""SPLIT against the cloud's own streaming and against one token a round trip by ids: tokens a second and bytes a token.

Both sides run on this machine, one thread each, over mutual TLS; impressions of reports, greedy, each prompt new to the cloud.
``bytes up`` counts messages with gRPC's prefix, prompt included, for each token of the answer. With ``--seconds`` in slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks._cloud_pair import CloudPair, EdgeModel, cloud_pair, no_drafts
from benchmarks._kept import Kept
from benchmarks._report_prompts import ReportPrompts, ids_of
from benchmarks.line import Line, Options
from edge_agent.extend.first_layers import FirstLayers
from partition.extend.activations import Codec, row_bytes
from partition.extend.draft_length import RoundCosts

MODEL = "smollm2-135m-instruct"
CUT = 15
LIMIT = 24
BYTES_PER_S = 1.25e6  # ten megabits
STREAMING, STEPPING = "cloud streaming", "one token a round trip"
_COSTS = no_drafts(
    RoundCosts(draft_s=0.05, verify_base_s=0.1, verify_per_draft_s=0.01, round_trip_s=0.05)
)


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    codecs = (Codec.INT8,) if options.quick else (Codec.FLOAT16, Codec.INT8, Codec.INT4)
    kept = Kept(f"split-{MODEL}-{CUT}-{LIMIT}", options.seconds)
    edge = EdgeModel(MODEL)
    layers = edge.layers(CUT)
    with cloud_pair(MODEL) as pair:
        bench = _Bench(pair, edge, layers, ReportPrompts(options.data), kept)
        for trip_ms in (50,) if options.quick else (2, 50):
            yield from bench.compare(trip_ms, codecs, num_reports=2 if options.quick else 4)
    for codec in codecs:
        width = edge.spec.hidden_size
        yield Line(
            case=f"row {codec.name.lower()} {MODEL}",
            ours=row_bytes(codec, width) / width,
            unit="bytes a hidden unit",
            runs=1,
        )


class _Bench:
    """One model, cut in two."""

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

    def compare(
        self, trip_ms: int, codecs: tuple[Codec, ...], *, num_reports: int
    ) -> Iterator[Line]:
        """All ways in turn for each report, as far as time allows."""
        ways = (*(f"split {codec.name.lower()}" for codec in codecs), STREAMING, STEPPING)
        rows: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        with self._pair.over(round_trip_s=trip_ms / 1000, bytes_per_s=BYTES_PER_S):
            for report in range(num_reports):
                found = {
                    way: self._kept.get(
                        f"{trip_ms} {report} {way}",
                        partial(self._one, way, report, 10 * trip_ms + number),
                    )
                    for number, way in enumerate(ways)
                }
                if None in found.values():
                    break
                for way, row in found.items():
                    rows[way].append(row)
        count = len(rows[STREAMING])
        if not count:
            return
        for way in ways[: len(codecs)]:
            for peer in (STREAMING, STEPPING):
                yield Line(
                    case=f"{way} of {self._edge.spec.num_layers} at {CUT}, {trip_ms} ms {MODEL}",
                    ours=_median(rows[way], "rate"),
                    theirs=_median(rows[peer], "rate"),
                    peer=f"tandem {peer}",
                    unit="tokens/s",
                    runs=count,
                )
                yield Line(
                    case=f"bytes up, {way}, {trip_ms} ms {MODEL}",
                    ours=_median(rows[way], "bytes"),
                    theirs=_median(rows[peer], "bytes"),
                    peer=f"tandem {peer}",
                    unit="bytes/token",
                    runs=count,
                    less_is_better=True,
                )

    def _one(self, way: str, report: int, run: int) -> dict[str, float]:
        text = self._prompts.text(report, run=run)
        prompt = ids_of(self._edge, text)
        if way == STREAMING:
            timing = self._pair.stream(text, LIMIT)
            sent = timing.sent_bytes
        elif way == STEPPING:
            timing, verified = self._pair.verify(self._edge, prompt, LIMIT, costs=_COSTS)
            sent = verified.sent_bytes
        else:
            codec = Codec[way.removeprefix("split ").upper()]
            timing, result = self._pair.split(self._layers, prompt, LIMIT, codec=codec)
            sent = result.sent_bytes
        count = timing.num_tokens
        return {"rate": count / timing.total_s, "bytes": sent / count}


def _median(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.median([row[key] for row in rows]))
