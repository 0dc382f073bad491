"""What `partition advise` is told: volumes, requirements, prices with date and source. Checked, then frozen.

A file of the operator's is laid over the shipped ``prices.toml``, key by key, so that it need hold only what differs.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from partition.errors import ProfileError
from partition.planning.profile import first_problem

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, le=1e12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One figure, of a day and from somewhere."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    value: NotNegative
    dated: Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]
    source: Annotated[str, Field(min_length=3, max_length=300)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """How much there is to answer."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    requests_per_month: Positive
    growth_per_month: Annotated[float, Field(ge=-0.5, le=1)]
    horizon_months: Annotated[int, Field(ge=1, le=240)]
    prompt_tokens: Positive
    output_tokens: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What an answer must keep to."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    privacy_class: Literal["public", "internal", "personal", "health"]
    raw_text_may_leave: bool
    anonymised_text_may_leave: bool
    max_latency_s: Positive
    least_quality: Share
    must_work_offline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The devices."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    num_devices: Annotated[int, Field(ge=1, le=10**7)]
    busy_s_per_request: Positive
    highest_utilisation: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOption:
    """Everything on the devices."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: Annotated[str, Field(min_length=1, max_length=200)]
    quality: Share
    latency_s: Positive
    full_time_staff: NotNegative
    set_up_days: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOption:
    """Everything in the cloud."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: Annotated[str, Field(min_length=1, max_length=200)]
    billing: Literal["tokens", "instances"]
    quality: Share
    latency_s: Positive
    full_time_staff: NotNegative
    set_up_days: NotNegative
    requests_per_s_of_instance: Positive
    highest_utilisation: Annotated[float, Field(gt=0, le=1)]
    least_instances: Annotated[int, Field(ge=0, le=10**6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridOption:
    """The devices first, the cloud where they are unsure."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    local_share: Share
    quality: Share
    latency_s: Positive
    full_time_staff: NotNegative
    set_up_days: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorWeights:
    """What each factor is worth to the operator."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    scalability: NotNegative
    privacy: NotNegative
    cost: NotNegative
    ease: NotNegative
    newest_models: NotNegative
    predictability: NotNegative
    lock_in: NotNegative
    latency: NotNegative
    team: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Every price."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    device_usd: Price
    device_life_months: Price
    device_busy_w: Price
    electricity_usd_per_kwh: Price
    input_usd_per_million_tokens: Price
    output_usd_per_million_tokens: Price
    instance_usd_per_hour: Price
    network_usd_per_gb: Price
    staff_usd_per_month: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviceInputs:
    """Everything the advice depends on."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    volume: Volume
    requirements: Requirements
    fleet: Fleet
    local: LocalOption
    cloud: CloudOption
    hybrid: HybridOption
    weights: FactorWeights
    prices: PriceList


_ADAPTER = TypeAdapter(AdviceInputs)


def load_inputs(path: Path | None = None) -> AdviceInputs:
    """Read the shipped inputs, with those of a file laid over them.

    Raises:
        ProfileError: The file is missing, no TOML, or has a wrong key or value; the message names file and key.
    """
    document = tomllib.loads(shipped_inputs_text())
    if path is not None:
        try:
            document = _laid_over(document, tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(
                f"{path}: cannot be read as UTF-8 text ({type(error).__name__})"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ProfileError(f"{path}: no valid TOML: {error}") from error
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        raise ProfileError(f"{path}: {first_problem(error)}") from error


def shipped_inputs_text() -> str:
    """The shipped file, to be copied and corrected."""
    return resources.files("partition.advice").joinpath("prices.toml").read_text(encoding="utf-8")


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _laid_over(merged[key], value)
        else:
            merged[key] = value
    return merged
