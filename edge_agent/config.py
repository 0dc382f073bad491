"""The device's configuration: defaults < TOML file < environment (``TANDEM_EDGE_...``) < flags, merged once, here.

Nobody else reads the environment. Nested keys take two underscores: ``TANDEM_EDGE_CLOUD__TARGET=cloud:8443``.

    tasks = ["tasks"]                     # folders of task files, besides the built-in ones

    [model]
    name = "smollm2-135m-instruct"        # of the model store, or a path
    threads = 2

    [cloud]
    target = "cloud.example.org:8443"
    ca = "pki/ca.pem"
    certificate = "pki/device.pem"
    key = "pki/device.key"

Paths in a file are relative to the file.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from partition.oversight.audit import OnAlarm
from partition.oversight.budget import GivesWay
from partition.settings import NESTED, Settings, load_settings
from partition.stages.stage_range import Precision

if TYPE_CHECKING:
    from partition.extend.activations import Codec

ENVIRONMENT_PREFIX = "TANDEM_EDGE_"
APPLICATION = "tandem"
MIB = 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelConfig(_Section):
    """The small model of the device."""

    name: str = "smollm2-135m-instruct"  # of the model store, or a path to a GGUF file
    adapter: Path | None = None  # folder of a low-rank adapter for it, as PEFT saves one
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    max_memory_mb: Annotated[int, Field(ge=64)] = 2048
    context_tokens: Annotated[int, Field(ge=128)] = 4096
    max_batch: Annotated[int, Field(ge=1, le=64)] = 8  # answers written at once, memory permitting


class CloudConfig(_Section):
    """The way to the cloud; without a target the device works alone."""

    target: str = ""  # host:port
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure_loopback: bool = False  # plaintext, for a target on this machine only
    verify: bool = (
        False  # the device drafts and the cloud verifies, where the plan says that it is best
    )
    profile: Path | None = (
        None  # of `edge-agent profile`, for the plan; without one VERIFY or SPLIT is always taken
    )


class SplitConfig(_Section):
    """The first layers of the cloud's model on this device, for tasks whose policy says ``allow_split = true``."""

    model: str = ""  # the very model that the cloud runs, by name or path; empty: no split
    layers: Annotated[int, Field(ge=1)] | None = None  # on the device; None: the profile's best
    codec: Literal["float32", "float16", "int8", "int4"] = "int8"  # of hidden states
    precision: Precision = Precision.INT8  # of the layers here; float32 is the cloud's text exactly
    chunk_tokens: Annotated[int, Field(ge=1, le=4096)] = 128  # of the prompt in one frame

    @property
    def as_codec(self) -> Codec:
        """The codec itself."""
        from partition.extend.activations import Codec  # here, not above: this loads numpy

        return Codec[self.codec.upper()]


class AnonymizerConfig(_Section):
    """What may take how long before a request has to stay on the device."""

    languages: tuple[str, ...] = ("en", "pt", "zh")
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 0.5  # plus 0.1 s for each 4,000 characters


class OutboxConfig(_Section):
    """The durable queue of what still has to reach the cloud."""

    max_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    max_age_days: Annotated[float, Field(gt=0)] = 90.0


class Auditor(enum.StrEnum):
    """Who judges audited answers."""

    CLOUD = "cloud"  # by its own answer
    PERSON = "person"  # with `edge-agent audits judge`


class AuditConfig(_Section):
    """Which local answers are checked afterwards, by whom, and what too many errors do."""

    rate: Annotated[float, Field(ge=0, le=1)] = 0.0  # 0.01 to 0.05 is usual; 0: none
    deadline_days: Annotated[float, Field(gt=0)] = 7.0  # unjudged by then counts as an error
    on_alarm: OnAlarm = OnAlarm.CLOUD
    by: Auditor = Auditor.CLOUD


class BudgetConfig(_Section):
    """What the cloud may cost in a day (UTC), and what gives way when that is not enough."""

    daily_usd: Annotated[float, Field(ge=0, le=1e6)] | None = None  # None: no limit
    gives_way: GivesWay = GivesWay.QUEUE
    audit_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of it, reserved for audits
    usd_per_million_input_tokens: Annotated[float, Field(ge=0)] = 0.0
    usd_per_million_output_tokens: Annotated[float, Field(ge=0)] = 0.0
    cloud_accuracy: Annotated[float, Field(gt=0, le=1)] = 1.0  # how often the cloud is right

    @model_validator(mode="after")
    def _has_prices(self) -> Self:
        if self.daily_usd is not None and not (
            self.usd_per_million_input_tokens or self.usd_per_million_output_tokens
        ):
            raise ValueError(
                "a daily budget needs usd_per_million_input_tokens or usd_per_million_output_tokens"
            )
        return self


class AdaptiveConfig(_Section):
    """Tasks whose threshold follows the audits instead of a certificate: a long-run average, and no confidence."""

    tasks: tuple[str, ...] = ()
    max_error: Annotated[float, Field(gt=0, lt=1)] = 0.05
    start: Annotated[float, Field(ge=0, le=1)] = 0.95  # the first threshold on the probability


class HttpConfig(_Section):
    """The OpenAI-compatible endpoint."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8010
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * MIB
    allowed_hosts: tuple[
        str, ...
    ] = ()  # names of this machine that clients use, besides loopback and `host`


class SyncConfig(_Section):
    """How releases come to this device; without a channel and a root it keeps the model it was made with."""

    channel: str = ""  # devices that can run the same release
    root: Path | None = None  # the publisher's first root, as it was handed over with this program
    device_id: str = ""  # TENANT/DEVICE; empty: what the certificate says
    hardware_class: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,63}$")] = ""
    max_kilobytes_per_s: Annotated[float, Field(ge=0)] = 0.0  # 0: no limit
    quiet_hours: Annotated[str, Field(pattern=r"^(\d\d:\d\d-\d\d:\d\d)?$")] = (
        ""  # local time; nothing is fetched
    )
    metered: bool = False  # fetch only when `edge-agent sync` is run by hand
    poll_s: Annotated[float, Field(ge=10)] = 3600.0
    hint_jitter_s: Annotated[float, Field(ge=0)] = (
        10.0  # longest wait after a hint: a fleet must not ask all at once
    )
    soak_s: Annotated[float, Field(ge=0)] = 86_400.0  # of a trial
    min_answers: Annotated[int, Field(ge=0)] = 50  # in a trial


class EdgeConfig(Settings):
    """Everything an agent needs to know before its first request. Immutable."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=NESTED,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    model: ModelConfig = ModelConfig()
    cloud: CloudConfig = CloudConfig()
    split: SplitConfig = SplitConfig()
    anonymizer: AnonymizerConfig = AnonymizerConfig()
    outbox: OutboxConfig = OutboxConfig()
    audit: AuditConfig = AuditConfig()
    budget: BudgetConfig = BudgetConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    http: HttpConfig = HttpConfig()
    sync: SyncConfig = SyncConfig()
    tasks: tuple[Path, ...] = ()
    default_task: str = "assistant"
    state_folder: Path = Path(platformdirs.user_state_dir(APPLICATION))
    cache_folder: Path = Path(platformdirs.user_cache_dir(APPLICATION))
    certificates: Path | None = None  # folder of <task>.json
    scorers: Path | None = None  # folder of <task>.json
    heads: Path | None = None  # folder of <task>.json: label heads
    gates: Path | None = None  # folder of <task>.json: gates before the local model
    offline: bool = False  # ask nobody, neither the cloud nor a source of models


def load_config(
    path: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> EdgeConfig:
    """Merge the four layers; see :mod:`partition.settings`.

    Args:
        path: The TOML file; None: no file.
        flags: What the command line set, nested like the file; an unset flag is absent.
        environment: Instead of the process's own.

    Raises:
        SettingsError: The file cannot be read, or a key, value or ``TANDEM_EDGE_`` variable is wrong.
    """
    return load_settings(
        EdgeConfig,
        path,
        flags=flags or {},
        environment=os.environ if environment is None else environment,
        paths=_PATHS,
    )


_PATHS = frozenset(
    {
        ("cloud", "ca"),
        ("cloud", "certificate"),
        ("cloud", "key"),
        ("cloud", "profile"),
        ("model", "adapter"),
        ("state_folder",),
        ("cache_folder",),
        ("certificates",),
        ("scorers",),
        ("heads",),
        ("gates",),
        ("tasks",),
        ("sync", "root"),
    }
)
