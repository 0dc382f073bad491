"""The device's model and the cloud's on the same requests: what they get right together, by where the line between them is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._bootstrap import Rows, bootstrap_interval, figure_lines
from benchmarks._judged_answers import JudgedAnswers
from benchmarks.line import Line
from partition.calibration.calibration import Claim, certify, divide
from partition.calibration.quality import apgr, cloud_share_for, quality_by_cloud_share

CONFIDENCE = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TierPair:
    """Both tiers on the requests that both have answered; arrays ``(n,)``."""

    case: str
    edge_right: Floats
    cloud_right: Floats
    groups: Rows
    scores: dict[str, Floats]  # by row of the table, higher stays local longer

    def curve(self, name: str, chosen: Rows) -> tuple[Floats, Floats]:
        return quality_by_cloud_share(
            self.scores[name][chosen], self.edge_right[chosen], self.cloud_right[chosen]
        )

    @property
    def everyone(self) -> Rows:
        return np.arange(len(self.edge_right))


def pair_lines(pair: TierPair, judged: JudgedAnswers, rows: Rows, runs: int) -> Iterator[Line]:
    """Where the certificate stands, at fixed shares in the cloud, and how much of the gap is recovered.

    Args:
        pair: Both tiers.
        judged: All answers of the device, of which ``rows`` are the pair's.
        rows: See above.
        runs: Draws for each interval.
    """
    yield from _certified_lines(pair, judged, rows, runs)
    yield from _table_lines(pair, runs)
    low, high = bootstrap_interval(
        pair.groups,
        lambda chosen: float((pair.cloud_right[chosen] - pair.edge_right[chosen]).mean()),
        runs,
    )
    yield Line(case=f"quality-gap-low {pair.case}", ours=low, unit="share right", runs=runs)
    yield Line(case=f"quality-gap-high {pair.case}", ours=high, unit="share right", runs=runs)
    if low > 0:  # else there is no gap that could be recovered: APGR would mean nothing
        yield from _recovery_lines(pair, runs)


def _certified_lines(
    pair: TierPair, judged: JudgedAnswers, rows: Rows, runs: int
) -> Iterator[Line]:
    """Everything together where the certificate stands: certified answers local, all others in the cloud."""
    for max_error in (0.05, 0.10):
        claim = Claim(max_error=max_error, confidence=CONFIDENCE)
        threshold = certify(divide(judged.records), claim).threshold
        if threshold is None:
            continue
        stays = judged.scores[rows] >= threshold
        right = np.where(stays, pair.edge_right, pair.cloud_right)

        def gain(chosen: Rows, right: Floats = right) -> float:
            return float((right[chosen] - pair.cloud_right[chosen]).mean())

        low, high = bootstrap_interval(pair.groups, gain, runs)
        at = f"certified-{max_error:g} local-{stays.mean():.2f} {pair.case}"
        yield Line(
            case=f"quality {at}",
            ours=float(right.mean()),
            theirs=float(pair.cloud_right.mean()),
            peer="cloud-only",
            unit="share right",
            runs=1,
        )
        yield Line(case=f"quality-gain-low {at}", ours=low, unit="share right", runs=runs)
        yield Line(case=f"quality-gain-high {at}", ours=high, unit="share right", runs=runs)


def _table_lines(pair: TierPair, runs: int) -> Iterator[Line]:
    """Quality of all answers together with a quarter, half and three quarters of the requests in the cloud."""
    for share in (0.25, 0.5, 0.75):
        by_lot = (1 - share) * pair.edge_right.mean() + share * pair.cloud_right.mean()
        for name in pair.scores:

            def quality(chosen: Rows, name: str = name, share: float = share) -> float:
                return float(pair.curve(name, chosen)[1][round(share * len(chosen))])

            yield from figure_lines(
                f"quality {name} cloud-share-{share:g} {pair.case}",
                quality,
                pair.everyone,
                pair.groups,
                "share right",
                runs,
                theirs=float(by_lot),
                peer="random",
            )


def _recovery_lines(pair: TierPair, runs: int) -> Iterator[Line]:
    """APGR and CPT of every row, and what the scorer gains over each plain feature."""
    for name in pair.scores:

        def recovered(chosen: Rows, name: str = name) -> float:
            return apgr(*pair.curve(name, chosen))

        yield from figure_lines(
            f"apgr {name} {pair.case}",
            recovered,
            pair.everyone,
            pair.groups,
            "APGR",
            runs,
            theirs=0.5,
            peer="random",
        )
        for share in (0.5, 0.8):
            yield Line(
                case=f"cpt-{100 * share:.0f} {name} {pair.case}",
                ours=cloud_share_for(*pair.curve(name, pair.everyone), share),
                theirs=share,
                peer="random",
                unit="share sent to the cloud",
                runs=1,
                less_is_better=True,
            )
    for plain in ("max-probability", "token-entropy"):

        def gain(chosen: Rows, plain: str = plain) -> float:
            ours, theirs = (apgr(*pair.curve(name, chosen)) for name in ("scorer", plain))
            return ours - theirs

        low, high = bootstrap_interval(pair.groups, gain, runs)
        yield Line(case=f"apgr-gain-low over-{plain} {pair.case}", ours=low, unit="APGR", runs=runs)
        yield Line(
            case=f"apgr-gain-high over-{plain} {pair.case}", ours=high, unit="APGR", runs=runs
        )
