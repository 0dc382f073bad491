"""The advice as Markdown for people and as JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from partition.advice.advice_inputs import PriceList
from partition.advice.advisor import Advice
from partition.advice.deployment import Deployment, MonthlyCost, figures_of

_FACTORS = {
    "scalability": "Scalability",
    "privacy": "Privacy and regulation",
    "cost": "Cost",
    "ease": "Ease",
    "newest_models": "Newest models",
    "predictability": "Predictability",
    "lock_in": "Lock-in",
    "latency": "Latency",
    "team": "Team",
}


def to_json(advice: Advice) -> dict[str, Any]:
    """Everything, as plain values."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(advice)))
    for assessment, source in zip(document["assessments"], advice.assessments, strict=True):
        for month in ("first_month", "last_month"):
            assessment[month]["total"] = getattr(source, month).total
    return document


def to_markdown(advice: Advice) -> str:
    """A page that can be handed round."""
    parts = [
        "# Where should it run?",
        advice.reason,
        "## The three",
        _options(advice),
        "## Cost",
        _costs(advice),
        _break_evens(advice),
        "## Nine factors",
        "One star is poor, five are good; the cost is rated over the whole horizon.",
        _factors(advice),
        "## What would change this",
        _swings(advice),
        "## Risks",
        "\n".join(f"- {risk}" for risk in advice.risks),
        "## What it stands on",
        _inputs(advice),
    ]
    return "\n\n".join(parts) + "\n"


def _options(advice: Advice) -> str:
    inputs = advice.inputs
    models = {
        Deployment.LOCAL: inputs.local.model,
        Deployment.CLOUD: inputs.cloud.model,
        Deployment.HYBRID: f"both; {inputs.hybrid.local_share:.0%} of the answers on the device",
    }
    rows = []
    for found in advice.assessments:
        figures = figures_of(inputs, found.deployment)
        rows.append(
            [
                str(found.deployment),
                models[found.deployment],
                f"{figures.quality:.1%}",
                f"{figures.latency_s:.3g}",
                "; ".join(found.refusals) or "-",
            ]
        )
    return _table(["deployment", "model", "right answers", "seconds", "forbidden because"], rows)


def _costs(advice: Advice) -> str:
    names = list(MonthlyCost.__slots__)
    rows = [
        [
            part.replace("_", " "),
            *(f"{getattr(a.first_month, part):,.0f}" for a in advice.assessments),
        ]
        for part in names
    ]
    months = advice.inputs.volume.horizon_months
    rows += [
        ["**first month**", *(f"**{a.first_month.total:,.0f}**" for a in advice.assessments)],
        [f"month {months}", *(f"{a.last_month.total:,.0f}" for a in advice.assessments)],
        [f"all {months} months", *(f"{a.horizon_usd:,.0f}" for a in advice.assessments)],
        ["1,000 requests", *(f"{a.usd_per_1000_requests:,.2f}" for a in advice.assessments)],
    ]
    return _table(["dollars", *(str(a.deployment) for a in advice.assessments)], rows)


def _break_evens(advice: Advice) -> str:
    if not advice.break_evens:
        return "No two of them cost the same at any volume."
    return "\n".join(
        f"- Up to {point.requests_per_month:,.0f} requests a month {point.cheaper_below} is cheaper than "
        f"{point.cheaper_above}, above it {point.cheaper_above} is."
        for point in advice.break_evens
    )


def _factors(advice: Advice) -> str:
    rows = []
    for index, (key, title) in enumerate(_FACTORS.items()):
        ratings = [a.ratings[index] for a in advice.assessments]
        assert all(rating.factor == key for rating in ratings)
        weight = getattr(advice.inputs.weights, key)
        rows.append([title, f"{weight:g}", *(f"{r.stars}: {r.reason}" for r in ratings)])
    rows.append(["**weighted**", "", *(f"**{a.weighted_rating:.2f}**" for a in advice.assessments)])
    return _table(["factor", "weight", *(str(a.deployment) for a in advice.assessments)], rows)


def _swings(advice: Advice) -> str:
    rows = [
        [
            swing.name.replace("_", " "),
            f"{_name(swing.halved)}; cheapest {swing.cheapest_halved}",
            f"{_name(swing.doubled)}; cheapest {swing.cheapest_doubled}",
        ]
        for swing in advice.swings
        if swing.changes
    ]
    rest = [swing.name.replace("_", " ") for swing in advice.swings if not swing.changes]
    parts = []
    if rows:
        parts.append(_table(["input", "halved", "doubled"], rows))
    if rest:
        parts.append(f"Half or double of these changes neither: {', '.join(rest)}.")
    return "\n\n".join(parts)


def _inputs(advice: Advice) -> str:
    rows = []
    for field in fields(PriceList):
        price = getattr(advice.inputs.prices, field.name)
        rows.append([field.name.replace("_", " "), f"{price.value:g}", price.dated, price.source])
    volume = advice.inputs.volume
    sentence = (
        f"{volume.requests_per_month:,.0f} requests a month, growing by {volume.growth_per_month:.1%} a month, "
        f"{volume.prompt_tokens:g} tokens in and {volume.output_tokens:g} out, over {volume.horizon_months} months; "
        f"privacy class {advice.inputs.requirements.privacy_class}."
    )
    return sentence + "\n\n" + _table(["price", "value", "of", "source"], rows)


def _name(deployment: Deployment | None) -> str:
    return "none" if deployment is None else str(deployment)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
