"""What a deployment costs in a month: a sum of stated parts."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from partition.advice.advice_inputs import AdviceInputs
from partition.planning.cost import MESSAGE_BYTES, TEXT_BYTES

HOURS_PER_MONTH = 730.0
SECONDS_PER_MONTH = 3600 * HOURS_PER_MONTH
WORK_DAYS_PER_MONTH = 21.0


class Deployment(enum.StrEnum):
    """Where the work is done."""

    LOCAL = "local"
    CLOUD = "cloud"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthlyCost:
    """Dollars of one month, by part."""

    devices: float
    energy: float
    cloud: float
    network: float
    staff: float
    set_up: float  # spread over the horizon

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, part) for part in self.__slots__))


@dataclass(frozen=True, slots=True)
class OptionFigures:
    """What all three have: quality, latency, posts, days of set-up."""

    quality: float
    latency_s: float
    full_time_staff: float
    set_up_days: float


def figures_of(inputs: AdviceInputs, deployment: Deployment) -> OptionFigures:
    """What one deployment promises."""
    if deployment is Deployment.LOCAL:
        ours = inputs.local
        return OptionFigures(ours.quality, ours.latency_s, ours.full_time_staff, ours.set_up_days)
    if deployment is Deployment.CLOUD:
        theirs = inputs.cloud
        return OptionFigures(
            theirs.quality, theirs.latency_s, theirs.full_time_staff, theirs.set_up_days
        )
    both = inputs.hybrid
    return OptionFigures(both.quality, both.latency_s, both.full_time_staff, both.set_up_days)


def monthly_cost(inputs: AdviceInputs, deployment: Deployment, requests: float) -> MonthlyCost:
    """Dollars of a month with so many requests."""
    prices, fleet = inputs.prices, inputs.fleet
    on_device = 0.0 if deployment is Deployment.CLOUD else requests
    sent = {
        Deployment.LOCAL: 0.0,
        Deployment.CLOUD: requests,
        Deployment.HYBRID: requests * (1 - inputs.hybrid.local_share),
    }[deployment]
    busy_s = on_device * fleet.busy_s_per_request
    capacity_s = SECONDS_PER_MONTH * fleet.highest_utilisation
    num_devices = max(fleet.num_devices, math.ceil(busy_s / capacity_s)) if on_device else 0
    option = figures_of(inputs, deployment)
    size = inputs.volume.prompt_tokens + inputs.volume.output_tokens
    carried = sent * (TEXT_BYTES * size + MESSAGE_BYTES * (1 + inputs.volume.output_tokens))
    staff_day = prices.staff_usd_per_month.value / WORK_DAYS_PER_MONTH
    return MonthlyCost(
        devices=num_devices * prices.device_usd.value / max(prices.device_life_months.value, 1e-9),
        energy=busy_s * prices.device_busy_w.value / 3.6e6 * prices.electricity_usd_per_kwh.value,
        cloud=_cloud_cost(inputs, sent),
        network=carried / 1e9 * prices.network_usd_per_gb.value,
        staff=option.full_time_staff * prices.staff_usd_per_month.value,
        set_up=option.set_up_days * staff_day / inputs.volume.horizon_months,
    )


def _cloud_cost(inputs: AdviceInputs, sent: float) -> float:
    prices, cloud = inputs.prices, inputs.cloud
    if sent == 0:
        return 0.0
    if cloud.billing == "tokens":
        per_request = (
            inputs.volume.prompt_tokens * prices.input_usd_per_million_tokens.value
            + inputs.volume.output_tokens * prices.output_usd_per_million_tokens.value
        ) / 1e6
        return sent * per_request
    capacity = cloud.requests_per_s_of_instance * cloud.highest_utilisation * SECONDS_PER_MONTH
    instances = max(cloud.least_instances, math.ceil(sent / capacity))
    return instances * HOURS_PER_MONTH * prices.instance_usd_per_hour.value
