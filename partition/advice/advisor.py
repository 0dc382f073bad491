"""The deployment question as a whole: on the devices, in the cloud, or both; what it costs, and what speaks for each.

Costs are of one month, over a horizon with growth, as a sum of stated parts. The factors are rated 1 (poor) to 5 (good) by
rules on the inputs where there are numbers, and by a stated judgement where there are none; each rating has its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from partition.advice.advice_inputs import AdviceInputs, PriceList
from partition.advice.assessment import Assessment, assess, best_of
from partition.advice.deployment import Deployment, monthly_cost
from partition.advice.sensitivity import Swing, swings

MOST_REQUESTS = 1e12  # a month, up to which a break-even is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The volume at which two deployments cost the same."""

    cheaper_below: Deployment
    cheaper_above: Deployment
    requests_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The answer, with everything it stands on."""

    recommended: Deployment | None
    reason: str
    assessments: tuple[Assessment, ...]
    break_evens: tuple[BreakEven, ...]
    swings: tuple[Swing, ...]
    risks: tuple[str, ...]
    inputs: AdviceInputs


def advise(inputs: AdviceInputs) -> Advice:
    """Answer the deployment question. Pure."""
    assessments = assess(inputs)
    recommended = best_of(assessments)
    return Advice(
        recommended=recommended,
        reason=_reason(recommended, assessments),
        assessments=assessments,
        break_evens=break_evens(inputs),
        swings=swings(inputs),
        risks=_risks(inputs, recommended),
        inputs=inputs,
    )


def break_evens(inputs: AdviceInputs) -> tuple[BreakEven, ...]:
    """Find, for each pair, the first volume from one request a month up at which the cheaper one changes."""
    found = []
    pairs = [
        (Deployment.LOCAL, Deployment.CLOUD),
        (Deployment.LOCAL, Deployment.HYBRID),
        (Deployment.HYBRID, Deployment.CLOUD),
    ]
    for one, other in pairs:

        def gap(requests: float, a: Deployment = one, b: Deployment = other) -> float:
            return monthly_cost(inputs, a, requests).total - monthly_cost(inputs, b, requests).total

        crossing = _first_sign_change(gap)
        if crossing is not None:
            below = one if gap(1.0) < 0 else other
            found.append(
                BreakEven(
                    cheaper_below=below,
                    cheaper_above=other if below is one else one,
                    requests_per_month=crossing,
                )
            )
    return tuple(found)


def _first_sign_change(gap: Callable[[float], float]) -> float | None:
    """Walk in steps of a fifth (costs jump where another device or instance is needed), then halve."""
    low = 1.0
    is_positive = gap(low) > 0
    while low < MOST_REQUESTS:
        high = low * 1.2
        if (gap(high) > 0) is not is_positive:
            while high / low > 1.001:
                middle = (low * high) ** 0.5
                if (gap(middle) > 0) is is_positive:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return None


def _reason(recommended: Deployment | None, assessments: tuple[Assessment, ...]) -> str:
    if recommended is None:
        causes = "; ".join(f"{a.deployment}: {', '.join(a.refusals)}" for a in assessments)
        return f"No deployment keeps to the requirements ({causes}). Relax one of them."
    chosen = next(a for a in assessments if a.deployment is recommended)
    cheapest = min(assessments, key=lambda a: a.horizon_usd)
    sentences = [
        (
            f"{recommended.capitalize()}: rated {chosen.weighted_rating:.1f} of 5 by your weights, "
            f"{chosen.first_month.total:,.0f} dollars in the first month."
        )
    ]
    if cheapest is not chosen:
        more = chosen.horizon_usd / max(cheapest.horizon_usd, 1e-9) - 1
        sentences.append(
            f"{cheapest.deployment.capitalize()} would cost less; this is {more:.0%} more."
        )
    else:
        sentences.append("It is also the cheapest over the horizon.")
    sentences += [
        f"Not {a.deployment}: {', '.join(a.refusals)}." for a in assessments if a.refusals
    ]
    return " ".join(sentences)


def _risks(inputs: AdviceInputs, recommended: Deployment | None) -> tuple[str, ...]:
    found = [
        (
            "A certificate of 5 % error at 95 % confidence wants 1,000 to 2,000 labelled answers of your own task; "
            "without them the local share is a guess."
        ),
    ]
    sensitive = inputs.requirements.privacy_class in ("personal", "health")
    if recommended is not Deployment.LOCAL:
        found.append("Without a network, answers are local and flagged, or wait.")
        if sensitive:
            found.append(
                "Anonymisation misses a few identifiers in a hundred; have a lawyer say whether what leaves is "
                "personal data, and measure recall on your own texts."
            )
    if recommended is not Deployment.CLOUD:
        found.append(
            "Models on devices age: plan signed updates, and a device that rolls one back."
        )
    if recommended is Deployment.HYBRID:
        found.append(
            "The share that goes to the cloud can rise when the inputs change: watch it, it is most of the bill."
        )
    if recommended is Deployment.CLOUD:
        found.append("Prices, models and terms are the provider's to change.")
    oldest = min(
        (getattr(inputs.prices, field.name).dated for field in fields(PriceList)), default=""
    )
    found.append(f"The oldest price is of {oldest}: put your own quotes in.")
    return tuple(found)
