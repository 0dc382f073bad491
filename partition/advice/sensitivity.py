"""What half or double of each input would change: every price, and whatever else cost and ratings depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from partition.advice.advice_inputs import AdviceInputs, FactorWeights, Price, PriceList
from partition.advice.assessment import Assessment, assess, best_of
from partition.advice.deployment import Deployment

_SECTIONS = (
    ("volume", ("requests_per_month", "growth_per_month", "prompt_tokens", "output_tokens")),
    ("fleet", ("num_devices", "busy_s_per_request")),
    ("local", ("full_time_staff", "set_up_days", "latency_s")),
    ("cloud", ("full_time_staff", "set_up_days", "latency_s")),
    ("hybrid", ("full_time_staff", "set_up_days", "latency_s")),
)
_MOST_GROWTH = 1.0  # a month, as the inputs allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What half or double one input does."""

    name: str
    halved: Deployment | None  # recommended then
    doubled: Deployment | None
    cheapest_halved: Deployment
    cheapest_doubled: Deployment
    changes: bool  # whether either differs from today's


def swings(inputs: AdviceInputs) -> tuple[Swing, ...]:
    """Halve and double one input at a time."""
    today = _outcome(assess(inputs))
    found = []
    for name, change in _changes(inputs):
        low, high = (_outcome(assess(change(factor))) for factor in (0.5, 2.0))
        found.append(
            Swing(
                name=name,
                halved=low[0],
                doubled=high[0],
                cheapest_halved=low[1],
                cheapest_doubled=high[1],
                changes=low != today or high != today,
            )
        )
    return tuple(found)


def _outcome(assessments: tuple[Assessment, ...]) -> tuple[Deployment | None, Deployment]:
    return best_of(assessments), min(assessments, key=lambda a: a.horizon_usd).deployment


def _changes(inputs: AdviceInputs) -> list[tuple[str, Callable[[float], AdviceInputs]]]:
    found: list[tuple[str, Callable[[float], AdviceInputs]]] = [
        (field.name, lambda f, name=field.name: _with_price(inputs, name, f))  # type: ignore[misc]
        for field in fields(PriceList)
    ]
    for section, names in _SECTIONS:
        is_option = section in ("local", "cloud", "hybrid")
        for name in names:
            shown = f"{section} {name}" if is_option else name
            found.append(
                (shown, lambda f, s=section, n=name: _with_value(inputs, s, n, f))  # type: ignore[misc]
            )
    found.append(
        (
            "share_sent_to_the_cloud",
            lambda f: replace(
                inputs,
                hybrid=replace(
                    inputs.hybrid, local_share=1 - min(1.0, (1 - inputs.hybrid.local_share) * f)
                ),
            ),
        )
    )
    found += [
        (f"weight of {field.name}", lambda f, n=field.name: _with_value(inputs, "weights", n, f))  # type: ignore[misc]
        for field in fields(FactorWeights)
    ]
    return found


def _with_price(inputs: AdviceInputs, name: str, factor: float) -> AdviceInputs:
    price: Price = getattr(inputs.prices, name)
    changed = replace(price, value=price.value * factor)
    return replace(inputs, prices=replace(inputs.prices, **{name: changed}))


def _with_value(inputs: AdviceInputs, section: str, name: str, factor: float) -> AdviceInputs:
    part: Any = getattr(inputs, section)
    old = getattr(part, name)
    new = max(1, round(old * factor)) if isinstance(old, int) else old * factor
    if name == "growth_per_month":
        new = min(_MOST_GROWTH, new)
    changes: dict[str, Any] = {section: replace(part, **{name: new})}
    return replace(inputs, **changes)
