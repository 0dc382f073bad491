"""Nine factors of a deployment, rated 1 (poor) to 5 (good).

By rules on the inputs where there are numbers, by a stated judgement where there are none; each with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from partition.advice.advice_inputs import AdviceInputs
from partition.advice.deployment import Deployment, MonthlyCost, figures_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One deployment in the light of one factor."""

    factor: str
    stars: int  # 1 to 5
    reason: str


def rate(
    inputs: AdviceInputs, deployment: Deployment, cost_ratio: float, first: MonthlyCost
) -> tuple[Rating, ...]:
    """Rate nine factors; the order is that of the table."""
    local, cloud = deployment is Deployment.LOCAL, deployment is Deployment.CLOUD
    rules, option = inputs.requirements, figures_of(inputs, deployment)
    sensitive = rules.privacy_class in ("personal", "health")
    share = inputs.hybrid.local_share
    variable = (first.cloud + first.network) / max(first.total, 1e-9)
    room = rules.max_latency_s / option.latency_s
    staff = option.full_time_staff

    def pick(of_local: str, of_cloud: str, of_hybrid: str) -> str:
        return of_local if local else of_cloud if cloud else of_hybrid

    rated = [
        (
            "scalability",
            2 if local else 5 if cloud else 4,
            pick(
                "every device answers for itself; more volume at one place needs another device",
                "instances are added within minutes",
                f"{share:.0%} scales with the devices, the rest with the cloud",
            ),
        ),
        (
            "privacy",
            5 if local else (1 if rules.raw_text_may_leave else 3) if cloud and sensitive else 4,
            pick(
                "no text leaves the device",
                "every request leaves the device, as it is"
                if rules.raw_text_may_leave
                else "every request leaves the device, anonymised; a missed identifier leaves too",
                f"{1 - share:.0%} of the requests leave, anonymised, and none when the anonymiser doubts",
            ),
        ),
        (
            "cost",
            5
            if cost_ratio < 1.05
            else 4
            if cost_ratio < 1.3
            else 3
            if cost_ratio < 2
            else 2
            if cost_ratio < 4
            else 1,
            f"{cost_ratio:.2f} times the cheapest over the horizon",
        ),
        (
            "ease",
            5
            if option.set_up_days <= 20
            else 4
            if option.set_up_days <= 40
            else 3
            if option.set_up_days <= 80
            else 2,
            f"{option.set_up_days:g} days of set-up",
        ),
        (
            "newest_models",
            1 if local else 5 if cloud else 4,
            pick(
                "models are as small as the devices are",
                "any model, on the day it appears",
                "new large models at once where it matters, new small ones by signed updates",
            ),
        ),
        (
            "predictability",
            5 if variable < 0.1 else 4 if variable < 0.25 else 3 if variable < 0.5 else 2,
            f"{variable:.0%} of the monthly cost moves with volume and the provider's price list",
        ),
        (
            "lock_in",
            5 if local else 2 if cloud else 4,
            pick(
                "open weights on your own devices",
                "one provider's models, prices and terms",
                "the cloud's part stands behind an open API, and the devices go on without it",
            ),
        ),
        (
            "latency",
            5 if room >= 4 else 4 if room >= 2 else 3 if room >= 1 else 1,
            f"{option.latency_s:g} s against a limit of {rules.max_latency_s:g} s"
            + ("; and nothing at all without a network" if cloud else ""),
        ),
        (
            "team",
            5 if staff <= 0.25 else 4 if staff <= 0.5 else 3 if staff <= 1 else 2,
            f"{staff:g} full-time posts to run it",
        ),
    ]
    return tuple(Rating(factor=factor, stars=stars, reason=why) for factor, stars, why in rated)
