"""The service's configuration: defaults < TOML < environment (``TANDEM_CLOUD_...``) < flags, merged once, here.

Nested keys are joined by two underscores in the environment: ``TANDEM_CLOUD_MODEL__NAME``. A misspelt key or variable is
an error. Relative paths are relative to the TOML file, or to the working directory where there is none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from partition.settings import NESTED, Settings, load_settings

ENVIRONMENT_PREFIX = "TANDEM_CLOUD_"
MIB = 1 << 20
LABEL = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"  # one DNS label

_Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$")]
_Positive = Annotated[float, Field(gt=0)]
_PositiveInt = Annotated[int, Field(gt=0)]
_Price = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class TlsConfig(_Section):
    """Certificates; the files are read again when they change."""

    certificate: Path | None = None
    key: Path | None = None
    client_authority: Path | None = None
    insecure_loopback: bool = False  # plaintext, and only on a loopback address


class ModelConfig(_Section):
    """Which model answers, and on what."""

    name: str = (
        "qwen2.5-coder-1.5b-instruct"  # of models.toml, a GGUF file, or a Hugging Face folder
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # of the engine; 0: as many as there are cores
    cache_dir: Path | None = None  # of the model store
    local_dirs: tuple[Path, ...] = ()  # folders that may hold model files, asked before the network
    offline: bool = False  # never fetch a model


class EngineConfig(_Section):
    """How much the model does at once."""

    kind: Literal["batching", "serial"] = "batching"
    max_sequences: Annotated[int, Field(ge=1, le=1024)] = 32
    step_tokens: Annotated[int, Field(ge=16, le=65536)] = 256  # positions of one step
    step_ms: _Positive = (
        120.0  # of a step in which somebody reads along: prompts come in shorter pieces
    )
    kv_mib: _PositiveInt = 1024  # memory of the KV cache
    tenant_weights: dict[str, _Positive] = {}  # of the engine's time; 1 where none is named


class OpenAIConfig(_Section):
    """The server that answers where ``backend`` is ``openai``."""

    base_url: str = ""  # with its path, for example http://127.0.0.1:8000/v1
    allow_plaintext: bool = False  # http to another machine: requests cross the network readable
    api_key: SecretStr | None = None
    model: str = ""  # as the server names it; empty: the only one it serves
    public_name: str = ""  # as callers name it; empty: the same
    tokenizer: Path | None = None  # the model's GGUF file, or folder with tokenizer.json
    revision: str = ""  # goes into the fingerprint: change it whenever the weights change
    context_tokens: _PositiveInt | None = None  # none: what the server says
    connect_timeout_s: _Positive = 5.0
    answer_timeout_s: _Positive = 120.0  # between two pieces of an answer


class LimitsConfig(_Section):
    """What one request may ask."""

    max_input_tokens: _PositiveInt = 8192
    max_output_tokens: _PositiveInt = 2048
    max_messages: _PositiveInt = 256
    max_labels: _PositiveInt = 64
    max_stop_strings: _PositiveInt = 16
    max_text_bytes: _PositiveInt = 4 * MIB  # all messages together
    max_message_bytes: _PositiveInt = 8 * MIB  # one gRPC message
    max_concurrent_streams: _PositiveInt = 256
    max_queued_requests: _PositiveInt = 256
    max_outcomes: _PositiveInt = 1000  # in one report
    max_sessions: _PositiveInt = 1024
    max_sessions_per_tenant: _PositiveInt = 256
    session_ttl_s: _Positive = 1800.0  # without a frame


class PricesConfig(_Section):
    """Dollars per million tokens, as billed in every reply."""

    input_usd: _Price = 0.10
    cached_input_usd: _Price = 0.025
    output_usd: _Price = 0.40


class DrainConfig(_Section):
    """How the service goes away; the sum stays under 25 s."""

    balancer_s: Annotated[float, Field(ge=0, le=5)] = 2.0  # until balancers have seen NOT_SERVING
    finish_s: Annotated[float, Field(ge=0, le=17)] = 15.0  # what running work gets


class StateConfig(_Section):
    """Where request ids, feedback and keys are kept."""

    url: SecretStr | None = None  # SQLAlchemy URL; none: SQLite in `directory`
    directory: Path = Path("state")
    master_key: Path | None = None  # 32 bytes, 0600; none: made in `directory`
    lease_s: Annotated[float, Field(ge=1)] = 15.0  # how long a replica that died holds a request up
    interactive_ttl_s: _Positive = 600.0
    outbox_ttl_s: _Positive = 90 * 86400.0

    @property
    def master_key_path(self) -> Path:
        """Where the master key is, or will be."""
        return self.master_key or self.directory / "master.key"


class TracesConfig(_Section):
    """Where spans go; without an endpoint none are made."""

    endpoint: str | None = None  # OTLP over HTTP, for example http://127.0.0.1:4318/v1/traces
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the traces that begin here


class ReleasesConfig(_Section):
    """What devices may fetch; without a folder this server publishes nothing."""

    directory: Path | None = None  # of the repository that `cloud-service publish` makes
    online_keys: Path | None = None  # folder; without it, metadata is not signed again here
    look_every_s: _Positive = 60.0  # at the rollouts
    sign_every_s: _Positive = 3600.0  # the timestamp


class QuotaConfig(_Section):
    """Limits of a tenant that is admitted here and not registered; 0 means none."""

    concurrent_calls: Annotated[int, Field(ge=0)] = 256
    requests_per_s: _Price = 200.0
    tokens_per_minute: Annotated[int, Field(ge=0)] = 0
    daily_micro_usd: Annotated[int, Field(ge=0)] = 0


class TenantsConfig(_Section):
    """Who may use the service: tenants that were added to its register, and those named here. Nobody else."""

    admitted: tuple[Annotated[str, Field(pattern=LABEL)], ...] = ()
    token_keys: Path | None = None  # folder of Ed25519 public keys, <key id>.pem
    default_quota: QuotaConfig = QuotaConfig()


class EnrolmentConfig(_Section):
    """How devices get certificates from this service; without a key it signs none."""

    certificate: Path | None = None  # of the authority that signs, best an intermediate one
    key: Path | None = None
    server_authority: Path | None = None  # verifies `tls.certificate`; none: `tls.client_authority`
    target: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$|^$")] = (
        ""  # host:port of `listen` as devices reach it
    )
    certificate_days: Annotated[int, Field(ge=1, le=90)] = 90


class CloudConfig(Settings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=NESTED,
        extra="forbid",
        hide_input_in_errors=True,
        frozen=True,
    )

    listen: _Address = "127.0.0.1:7443"
    backend_listen: _Address | None = None  # TLS without client certificates: API keys and tokens
    health_listen: _Address | None = (
        "127.0.0.1:0"  # plaintext health, for probes inside the machine
    )
    metrics_listen: _Address | None = "127.0.0.1:0"  # Prometheus
    reflection: bool = False
    log_format: Literal["text", "json"] = "text"
    tls: TlsConfig = TlsConfig()
    backend: Literal["transformers", "openai"] = "transformers"
    model: ModelConfig = ModelConfig()
    openai: OpenAIConfig = OpenAIConfig()
    engine: EngineConfig = EngineConfig()
    limits: LimitsConfig = LimitsConfig()
    prices: PricesConfig = PricesConfig()
    drain: DrainConfig = DrainConfig()
    state: StateConfig = StateConfig()
    tenants: TenantsConfig = TenantsConfig()
    enrolment: EnrolmentConfig = EnrolmentConfig()
    releases: ReleasesConfig = ReleasesConfig()
    traces: TracesConfig = TracesConfig()

    @model_validator(mode="after")
    def _model_server_is_named(self) -> Self:
        if self.backend != "openai":
            return self
        url = urlsplit(self.openai.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
            raise ValueError("`openai.base_url` must be a URL such as http://127.0.0.1:8000/v1")
        is_here = is_loopback(f"{url.hostname}:0")
        if url.scheme == "http" and not (is_here or self.openai.allow_plaintext):
            raise ValueError(
                "`openai.base_url` leaves this machine in plaintext; use https, or set `openai.allow_plaintext`"
            )
        return self

    @model_validator(mode="after")
    def _plaintext_stays_on_loopback(self) -> Self:
        if self.tls.insecure_loopback:
            if not is_loopback(self.listen):
                raise ValueError("`insecure_loopback` needs a loopback address in `listen`")
            return self
        if None in (self.tls.certificate, self.tls.key, self.tls.client_authority):
            raise ValueError(
                "`tls.certificate`, `tls.key` and `tls.client_authority` are needed; "
                "`cloud-service init DIR` makes all three for development"
            )
        return self

    @model_validator(mode="after")
    def _enrolment_is_whole(self) -> Self:
        found = self.enrolment
        if found.key is None and found.certificate is None:
            return self
        if None in (found.key, found.certificate, self.backend_listen) or not found.target:
            raise ValueError(
                "`enrolment` needs `certificate`, `key` and `target`, and `backend_listen` for devices "
                "that have no certificate yet"
            )
        return self


def load_config(
    path: Path | None, *, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> CloudConfig:
    """Merge the sources.

    Args:
        path: The TOML file, if there is one.
        flags: Nested mapping of what was given on the command line.
        environment: Variables of the process.

    Raises:
        SettingsError: A file, key, value or variable is wrong; the message names it.
    """
    return load_settings(CloudConfig, path, flags=flags, environment=environment, paths=_PATHS)


def split_address(address: str) -> tuple[str, int]:
    """Divide ``host:port``; the brackets of an IPv6 address are taken off."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Tell whether ``host:port`` can be reached from this machine only."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_PATHS = (
    ("tls", "certificate"),
    ("tls", "key"),
    ("tls", "client_authority"),
    ("model", "cache_dir"),
    ("model", "local_dirs"),
    ("openai", "tokenizer"),
    ("state", "directory"),
    ("state", "master_key"),
    ("tenants", "token_keys"),
    ("enrolment", "certificate"),
    ("enrolment", "key"),
    ("enrolment", "server_authority"),
    ("releases", "directory"),
    ("releases", "online_keys"),
)
