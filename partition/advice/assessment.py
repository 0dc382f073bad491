"""Each deployment judged: what it costs over the horizon, what forbids it, how it is rated."""

from __future__ import annotations

from dataclasses import dataclass

from partition.advice.advice_inputs import AdviceInputs
from partition.advice.advice_ratings import Rating, rate
from partition.advice.deployment import Deployment, MonthlyCost, figures_of, monthly_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One deployment, judged."""

    deployment: Deployment
    first_month: MonthlyCost
    last_month: MonthlyCost
    horizon_usd: float
    usd_per_1000_requests: float  # in the first month
    refusals: tuple[str, ...]  # why it may not be chosen
    ratings: tuple[Rating, ...]
    weighted_rating: float  # 1 to 5


def assess(inputs: AdviceInputs) -> tuple[Assessment, ...]:
    """Judge all three."""
    volume = inputs.volume
    growth = 1 + volume.growth_per_month
    volumes = [volume.requests_per_month * growth**month for month in range(volume.horizon_months)]
    horizons = {
        deployment: sum(monthly_cost(inputs, deployment, v).total for v in volumes)
        for deployment in Deployment
    }
    least = min(horizons.values())
    found = []
    for deployment in Deployment:
        first = monthly_cost(inputs, deployment, volumes[0])
        ratings = rate(inputs, deployment, horizons[deployment] / max(least, 1e-9), first)
        weights = [getattr(inputs.weights, rating.factor) for rating in ratings]
        found.append(
            Assessment(
                deployment=deployment,
                first_month=first,
                last_month=monthly_cost(inputs, deployment, volumes[-1]),
                horizon_usd=horizons[deployment],
                usd_per_1000_requests=1000 * first.total / volumes[0],
                refusals=_refusals(inputs, deployment),
                ratings=ratings,
                weighted_rating=sum(w * r.stars for w, r in zip(weights, ratings, strict=True))
                / max(sum(weights), 1e-9),
            )
        )
    return tuple(found)


def best_of(assessments: tuple[Assessment, ...]) -> Deployment | None:
    """The best rated of what nothing forbids; of equals the cheaper one. None: everything is forbidden."""
    allowed = [a for a in assessments if not a.refusals]
    if not allowed:
        return None
    return max(allowed, key=lambda a: (a.weighted_rating, -a.horizon_usd)).deployment


def _refusals(inputs: AdviceInputs, deployment: Deployment) -> tuple[str, ...]:
    rules, option, found = inputs.requirements, figures_of(inputs, deployment), []
    leaves = deployment is not Deployment.LOCAL
    if leaves and not rules.anonymised_text_may_leave and not rules.raw_text_may_leave:
        found.append("no text may leave the devices, not even anonymised")
    if rules.must_work_offline and deployment is Deployment.CLOUD:
        found.append("it must work without a network")
    if option.latency_s > rules.max_latency_s:
        found.append(
            f"{option.latency_s:g} s are over the latency limit of {rules.max_latency_s:g} s"
        )
    if option.quality < rules.least_quality:
        found.append(
            f"{option.quality:.0%} right is below the least quality of {rules.least_quality:.0%}"
        )
    return tuple(found)
