"""The calibration report: one HTML page without scripts or outside parts, in plain words.

Everything that comes from the records (task names, slice names) is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from partition.calibration.calibration import Claim, Division, WhatIf, sample_of, what_if
from partition.calibration.certificate import Certificate
from partition.calibration.display_calibration import fit_display
from partition.calibration.quality import (
    auroc,
    brier,
    calibration_error,
    quality_by_cloud_share,
)
from partition.calibration.records import Record
from partition.calibration.report_figures import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    Curve,
    cost_quality,
    reliability,
    risk_coverage,
    score_histogram,
)
from partition.calibration.threshold_search import candidates
from partition.errors import CalibrationError

_NUM_NEIGHBOURS = 4  # on each side of the chosen threshold
_MIN_FITTED = 30  # dev records, for a probability curve of our own
_LABELS = {"opt_max": "highest label probability", "first_entropy": "first-token entropy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """One way to share the work, at the local share of the certificate where it has one to choose."""

    name: str
    meaning: str
    local_share: float
    local_error: float | None  # among what it answers locally
    quality: float  # of all answers together


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What the page shows of one task."""

    certificate: Certificate
    neighbours: tuple[WhatIf, ...]
    trials: tuple[WhatIf, ...]
    baselines: tuple[BaselineRow, ...]
    ceiling_assumed: bool  # the cloud's own answers were not judged
    auroc: float
    probability_error: float | None
    brier: float | None
    risk_figure: Markup | None
    reliability_figure: Markup | None
    cost_figure: Markup | None
    histogram_figure: Markup | None


def write_report(
    path: Path,
    divisions: Sequence[Division],
    certificates: Sequence[Certificate],
    thresholds_tried: Sequence[float] = (),
) -> None:
    """Draw and write the page.

    Args:
        path: Of the HTML file.
        divisions: Of each task, as certified.
        certificates: One for each division.
        thresholds_tried: What-ifs to show.

    Raises:
        CalibrationError: The file cannot be written.
    """
    sections = tuple(
        describe(division, certificate, thresholds_tried)
        for division, certificate in zip(divisions, certificates, strict=True)
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("partition.calibration"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    page = environment.get_template("report.html").render(sections=sections)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be written ({type(error).__name__}); check the folder and its permissions"
        ) from error


def describe(
    division: Division, certificate: Certificate, thresholds_tried: Sequence[float] = ()
) -> Section:
    """Everything the page shows of one task."""
    claim = Claim(
        max_error=certificate.max_error, confidence=certificate.confidence, loss=certificate.loss
    )
    dev, test = sample_of(division.dev), sample_of(division.test)
    grid = candidates(dev if len(dev) else test)
    right = np.array([record.loss < 0.5 for record in division.test], dtype=np.bool_)
    scores = np.array([record.score for record in division.test], dtype=np.float64)
    stated = _stated_probabilities(division)
    baselines, curves, ceiling_assumed = _shares_of_work(division.test, certificate)
    tandem = next((row for row in baselines if row.name == "Tandem"), None)
    chosen = (1.0 - tandem.local_share, tandem.quality) if tandem is not None else None
    has_test = len(test) > 0
    return Section(
        certificate=certificate,
        neighbours=tuple(
            what_if(division, claim, threshold)
            for threshold in _neighbours(grid, certificate.threshold)
        ),
        trials=tuple(what_if(division, claim, threshold) for threshold in thresholds_tried),
        baselines=baselines,
        ceiling_assumed=ceiling_assumed,
        auroc=auroc(scores, right),
        probability_error=None if stated is None else calibration_error(stated, right),
        brier=None if stated is None else brier(stated, right),
        risk_figure=_safe(
            risk_coverage(
                test,
                max_error=claim.max_error,
                delta=claim.delta,
                threshold=certificate.threshold,
                points=grid,
            )
            if has_test
            else None
        ),
        reliability_figure=_safe(
            None if stated is None else reliability(stated, right.astype(np.float64))
        ),
        cost_figure=_safe(cost_quality(curves, chosen=chosen) if curves else None),
        histogram_figure=_safe(
            score_histogram(test, threshold=certificate.threshold) if has_test else None
        ),
    )


def _stated_probabilities(division: Division) -> NDArray[np.float64] | None:
    """What was shown with the test answers, or a curve fitted on dev records; None without either."""
    if not division.test:
        return None
    shown = [record.probability for record in division.test]
    if all(value is not None for value in shown):
        return np.array(shown, dtype=np.float64)
    right = np.array([record.loss < 0.5 for record in division.dev], dtype=np.bool_)
    if len(right) < _MIN_FITTED:
        return None
    display = fit_display(np.array([record.score for record in division.dev]), right)
    return np.array([display.probability(record.score) for record in division.test])


def _neighbours(grid: Sequence[float], threshold: float | None) -> tuple[float, ...]:
    """Candidates around the threshold, strictest first; the strictest few when there is none."""
    if threshold is None:
        return tuple(grid[: 2 * _NUM_NEIGHBOURS])
    around = sorted({*grid, threshold}, reverse=True)
    index = around.index(threshold)
    return tuple(around[max(0, index - _NUM_NEIGHBOURS) : index + _NUM_NEIGHBOURS + 1])


def _shares_of_work(
    test: Sequence[Record], certificate: Certificate
) -> tuple[tuple[BaselineRow, ...], tuple[Curve, ...], bool]:
    """Rows and curves of the ways to share the work, and whether the cloud had to be taken as always right."""
    if not test:
        return (), (), False
    edge = np.array([1.0 - record.loss for record in test])
    judged = all(record.cloud_correct is not None for record in test)
    cloud = np.array([float(record.cloud_correct is not False) for record in test])
    scores = np.array([record.score for record in test])
    n = certificate.n
    rows = [
        BaselineRow(
            name="edge only",
            meaning="every answer from the device",
            local_share=1.0,
            local_error=float(1 - edge.mean()),
            quality=float(edge.mean()),
        ),
        BaselineRow(
            name="cloud only",
            meaning="every answer from the cloud",
            local_share=0.0,
            local_error=None,
            quality=float(cloud.mean()),
        ),
    ]
    if n:
        share = n / len(test)
        rows.append(
            BaselineRow(
                name="random",
                meaning="the same share, drawn by lot",
                local_share=share,
                local_error=float(1 - edge.mean()),
                quality=float(share * edge.mean() + (1 - share) * cloud.mean()),
            )
        )
        for feature, meaning in _LABELS.items():
            plain = _feature(test, feature)
            if plain is not None:
                rows.append(
                    _row(feature, f"the same share, surest by {meaning}", plain, n, edge, cloud)
                )
        rows.append(_row("Tandem", "the certified threshold", scores, n, edge, cloud))
    gain = cloud - edge
    rows.append(
        BaselineRow(
            name="oracle",
            meaning="to the cloud only where that helps; nobody can do better",
            local_share=float(np.mean(gain <= 0)),
            local_error=float(np.mean(1 - edge[gain <= 0])) if np.any(gain <= 0) else None,
            quality=float(np.maximum(edge, cloud).mean()),
        )
    )
    shares, quality = quality_by_cloud_share(scores, edge, cloud)
    ends = np.array([0.0, 1.0])
    curves = [Curve(label="by score", shares=shares, quality=quality, colour=BLUE)]
    for feature, meaning in _LABELS.items():
        plain = _feature(test, feature)
        if plain is not None:
            by_feature = quality_by_cloud_share(plain, edge, cloud)
            colour = ORANGE if feature == "opt_max" else RED
            curves.append(
                Curve(
                    label=f"by {meaning}",
                    shares=by_feature[0],
                    quality=by_feature[1],
                    colour=colour,
                    style="--",
                )
            )
            break
    best = quality_by_cloud_share(-gain, edge, cloud)
    curves += [
        Curve(label="oracle", shares=best[0], quality=best[1], colour=GREY, style=":"),
        Curve(
            label="random",
            shares=ends,
            quality=np.array([edge.mean(), cloud.mean()]),
            colour=GREY,
        ),
    ]
    return tuple(rows), tuple(curves), not judged


def _row(
    name: str,
    meaning: str,
    scores: NDArray[np.float64],
    n: int,
    edge: NDArray[np.float64],
    cloud: NDArray[np.float64],
) -> BaselineRow:
    """The ``n`` surest by some score stay local."""
    local = np.zeros(len(scores), dtype=np.bool_)
    local[np.argsort(-scores, kind="stable")[:n]] = True
    return BaselineRow(
        name=name,
        meaning=meaning,
        local_share=n / len(scores),
        local_error=float(np.mean(1 - edge[local])),
        quality=float(np.where(local, edge, cloud).mean()),
    )


def _feature(test: Sequence[Record], name: str) -> NDArray[np.float64] | None:
    """One feature as a score, higher when surer; None unless every record has it."""
    values = [dict(record.features).get(name) for record in test]
    if any(value is None for value in values):
        return None
    found = np.array(values, dtype=np.float64)
    return -found if name == "first_entropy" else found


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _safe(svg: str | None) -> Markup | None:
    # Drawn by matplotlib from numbers; no text of the records is in it.
    return None if svg is None else Markup(svg)  # noqa: S704
