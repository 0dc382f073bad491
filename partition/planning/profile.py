"""What was measured once and is planned with: models on both sides, the link, power and prices. Stored as JSON.

The dataclasses are the schema: a profile file is checked against them, field by field, before anything is believed.
Seconds are medians of warm runs. A layer's prefill of S positions takes ``a + b S + c S^2`` (fixed, matrix products,
attention); one decoded position at context L takes ``a + b L`` (weights, cache).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from partition.errors import ProfileError
from partition.planning.link import LinkState

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)
SCHEMA_VERSION = 1

Seconds = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Dollars = Annotated[float, Field(ge=0, le=1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """One model on one machine."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: str
    num_layers: Annotated[int, Field(ge=1, le=1000)]
    hidden_size: Annotated[int, Field(ge=1, le=65536)]
    layer_prefill_s: tuple[Seconds, Seconds, Seconds]  # a, b, c of one layer
    layer_decode_s: tuple[Seconds, Seconds]  # a, b of one layer
    ends_s: Seconds = 0.0  # embedding and head, for one position
    verify_s: tuple[Seconds, Seconds] | None = None  # A, B of the whole model; None: not measured
    queue_s: Seconds = 0.0  # waiting for a turn, each pass
    layer_bytes: Count = 0  # weights of one layer
    ends_bytes: Count = 0  # weights of embedding and head
    kv_bytes: Count = 0  # cache of one position in one layer
    workspace_bytes: Count = 0  # everything else that must be resident

    def layer_prefill(self, num_positions: int) -> float:
        """Seconds of one layer over a prompt."""
        a, b, c = self.layer_prefill_s
        return a + b * num_positions + c * num_positions**2

    def layer_decode(self, context: float) -> float:
        """Seconds of one layer for one more position."""
        a, b = self.layer_decode_s
        return a + b * context

    def prefill(self, num_positions: int) -> float:
        """Seconds of the whole model over a prompt, to its first token."""
        return self.num_layers * self.layer_prefill(num_positions) + self.ends_s + self.queue_s

    def decode(self, context: float) -> float:
        """Seconds of the whole model for one more token."""
        return self.num_layers * self.layer_decode(context) + self.ends_s + self.queue_s

    def verification(self, context: float) -> tuple[float, float]:
        """A and B of a pass over 1 + gamma positions; one decode and a tenth each where it was not measured."""
        if self.verify_s is not None:
            return self.verify_s[0] + self.queue_s, self.verify_s[1]
        return self.decode(context), 0.1 * self.decode(context)

    def memory_bytes(self, num_layers: int, num_positions: int) -> int:
        """Memory of the first ``num_layers`` layers, their caches, the ends and the workspace."""
        layers = num_layers * (self.layer_bytes + self.kv_bytes * num_positions)
        return self.ends_bytes + layers + self.workspace_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way to the cloud."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    round_trip_s: Seconds
    round_trip_p95_s: Seconds = 0.0
    jitter_s: Seconds = 0.0
    up_bytes_per_s: Positive
    down_bytes_per_s: Positive

    @classmethod
    def of(cls, state: LinkState) -> Self:
        """Write down a link as it was seen."""
        return cls(
            round_trip_s=state.round_trip_s,
            round_trip_p95_s=state.round_trip_p95_s,
            jitter_s=state.jitter_s,
            up_bytes_per_s=state.up_bytes_per_s,
            down_bytes_per_s=state.down_bytes_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """A stated model of what the device draws, not a measurement: correct it with a meter."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    busy_w: Annotated[float, Field(ge=0, le=1e5)] = 15.0  # above idle, while it computes
    transmit_w: Annotated[float, Field(ge=0, le=1e5)] = 1.0
    idle_w: Annotated[float, Field(ge=0, le=1e5)] = 0.0  # waiting for this request


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the cloud's part costs."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    cloud_usd_per_s: Dollars = 0.0002  # of compute: about 0.72 dollars an hour
    usd_per_gb: Dollars = 0.0  # carried, either way; cellular plans have one


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """Everything that was measured for one device and its cloud."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    measured_at: str = ""  # ISO 8601, UTC
    machine: str = ""  # processor and cores, for people
    was_idle: bool = True  # nothing else ran while it was measured
    memory_bytes: Count = 0  # that models may take on the device; 0: no limit
    edge: Compute  # the device's own model
    edge_layers: Compute | None = None  # layers of the cloud's model on the device; None: no split
    cloud: Compute | None = None  # None: there is no cloud
    link: Link | None = None
    power: Power = Power()
    prices: Prices = Prices()


_ADAPTER = TypeAdapter(DeviceProfile)


def load_profile(path: Path) -> DeviceProfile:
    """Read and check a profile file.

    Raises:
        ProfileError: It is missing, no JSON, or has a wrong key or value; the message names file and key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be read ({type(error).__name__}); make one with `edge-agent profile`"
        ) from error
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        raise ProfileError(
            f"{path}: {first_problem(error)}; make a profile with `edge-agent profile`"
        ) from error


def save_profile(profile: DeviceProfile, path: Path) -> None:
    """Write a profile as JSON for people and machines."""
    path.write_text(json.dumps(as_document(profile), indent=2) + "\n", encoding="utf-8")


def as_document(profile: DeviceProfile) -> dict[str, Any]:
    """A profile as plain values."""
    document: dict[str, Any] = _ADAPTER.dump_python(profile, mode="json")
    return document


def first_problem(error: ValidationError) -> str:
    """One sentence about the first wrong key; never the rejected value."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"key {key!r}: {first['msg']}" if key else str(first["msg"])
