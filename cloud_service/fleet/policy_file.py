"""The operator's rollout policy as a TOML file.

[rollout]
steps_percent = [1, 10, 50, 100]
soak_hours = 24
rate = {base_per_minute = 5, increment_factor = 1.5, max_per_minute = 100}
abort = [{on = "ROLLED_BACK", min_executed = 10, threshold_percent = 20}]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cloud_service.errors import RolloutError
from cloud_service.fleet.ring_rate import RingRate
from cloud_service.fleet.rollout import AbortRule, Policy

_Share = Annotated[float, Field(gt=0, lt=1)]
_PerMinute = Annotated[float, Field(gt=0, le=1e6)]


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        RolloutError: The file cannot be read, or a key or value is wrong.
    """
    try:
        with path.open("rb") as file:
            return _File.model_validate(tomllib.load(file)).rollout.to_policy()
    except OSError as error:
        raise RolloutError(
            f"{path}: cannot be read ({error.strerror}); give a TOML file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise RolloutError(f"{path}: is no TOML ({error}); correct it") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RolloutError(f"{path}: {where}: {first['msg']}; correct it") from error


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _Rate(_Section):
    base_per_minute: _PerMinute
    increment_factor: Annotated[float, Field(ge=1, le=10)] = 1.0
    max_per_minute: _PerMinute = 1e6


class _Abort(_Section):
    on: Literal["FAILED", "ROLLED_BACK", "TIMED_OUT", "ALL"] = "ALL"
    min_executed: Annotated[int, Field(ge=1)]
    threshold_percent: Annotated[float, Field(gt=0, le=100)]


class _Rollout(_Section):
    steps_percent: Annotated[list[float], Field(min_length=1)] = [1.0, 10.0, 50.0, 100.0]
    soak_hours: Annotated[float, Field(ge=0)] = 24.0
    min_executed: Annotated[int, Field(ge=1)] = 5
    report_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    timeout_hours: Annotated[float, Field(gt=0)] = 72.0
    max_failure_rate: _Share = 0.02
    false_abort: _Share = 0.01
    rate: _Rate | None = None
    abort: list[_Abort] = []

    @model_validator(mode="after")
    def _steps_grow(self) -> Self:
        steps = self.steps_percent
        if steps != sorted(set(steps)) or steps[0] <= 0 or steps[-1] != 100:
            raise ValueError("`steps_percent` must grow and end with 100")
        return self

    def to_policy(self) -> Policy:
        return Policy(
            steps_percent=tuple(self.steps_percent),
            soak_s=3600 * self.soak_hours,
            min_executed=self.min_executed,
            report_share=self.report_share,
            timeout_s=3600 * self.timeout_hours,
            max_failure_rate=self.max_failure_rate,
            false_abort=self.false_abort,
            rate=RingRate(**self.rate.model_dump()) if self.rate is not None else None,
            abort=tuple(AbortRule(**rule.model_dump()) for rule in self.abort),
        )


class _File(_Section):
    rollout: _Rollout
