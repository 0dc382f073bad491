"""The one gRPC channel to the cloud: its options, its certificates, and the swap to a new one when they change."""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from edge_agent.errors import ConfigError
from edge_agent.metrics import Metrics
from protos.errors import UnavailableError

logger = logging.getLogger(__name__)

CHECK_FILES_EVERY_S = 5.0
OLD_CHANNEL_GRACE_S = 60.0  # calls that began on it may end on it
MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # the server has the same
# Methods that the channel itself tries again. None of them is tried again by our code: attempts would multiply.
CHANNEL_RETRIES = ({"service": "tandem.inference.v1.InferenceService", "method": "GetModel"},)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the device's side of mutual TLS lies, PEM files."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How the channel behaves on a bad link."""

    keepalive_time_s: float = 30.0  # the server allows one ping each 10 s
    keepalive_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    max_reconnect_pause_s: float = 10.0
    http_proxy: str = ""  # "http://host:port"; the environment's proxies are not asked

    def options(self) -> tuple[tuple[str, str | int], ...]:
        """List the channel arguments."""
        retry_policy = {
            "maxAttempts": 4,
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        service_config = {
            "methodConfig": [{"name": list(CHANNEL_RETRIES), "retryPolicy": retry_policy}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        }
        proxy: tuple[tuple[str, str | int], ...] = (
            (("grpc.http_proxy", self.http_proxy),)
            if self.http_proxy
            else (("grpc.enable_http_proxy", 0),)
        )
        return (
            ("grpc.keepalive_time_ms", round(self.keepalive_time_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            # Measured with grpcio 1.82.3: a half-open link is given up after this, 60 s by default, whatever the
            # keepalive timeout says.
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 1),
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.initial_reconnect_backoff_ms", 200),
            # C-core takes the smallest reconnect pause as the time that one connection attempt may last.
            ("grpc.min_reconnect_backoff_ms", round(self.connect_timeout_s * 1000)),
            ("grpc.max_reconnect_backoff_ms", round(self.max_reconnect_pause_s * 1000)),
            *proxy,
        )


@dataclass(slots=True)
class _Lent:
    """One channel and how many calls run on it."""

    channel: grpc.Channel
    num_calls: int = 0
    retired_at: float | None = None


class _ClosedError(UnavailableError):
    """This side closed the channel, so trying again cannot help."""

    is_transient = False


class CloudChannel:
    """Lends the channel to calls. Made on first use; swapped when a certificate file changes. Thread-safe."""

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None,
        insecure_loopback: bool = False,
        settings: ChannelSettings | None = None,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the arguments; opens nothing.

        Raises:
            ConfigError: No target, no certificates, or plaintext to another machine.
        """
        if not target:
            raise ConfigError("no cloud target; set `target` in [cloud] to host:port")
        if tls is None and not (insecure_loopback and is_loopback(target)):
            raise ConfigError(
                "the cloud needs `ca`, `certificate` and `key` in [cloud]; plaintext is only for a target "
                "on this machine, with `insecure_loopback = true`"
            )
        self._target = target
        self._tls = tls
        self._settings = settings or ChannelSettings()
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._current: _Lent | None = None
        self._retired: list[_Lent] = []
        self._seen: tuple[object, ...] = ()
        self._next_check = 0.0
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[grpc.Channel]:
        """Lend the channel for one call.

        Raises:
            ConfigError: The certificates cannot be used, and there is no older channel that could be.
            UnavailableError: Closed already.
        """
        with self._lock:
            if self._closed:
                raise _ClosedError("the way to the cloud is closed; open a new agent")
            self._renew()
            lent = self._current
            assert lent is not None
            lent.num_calls += 1
        try:
            yield lent.channel
        finally:
            with self._lock:
                lent.num_calls -= 1
                done = self._take_finished()
            _close(done)

    def close(self) -> None:
        """Close every channel; running calls end as cancelled. A second call does nothing."""
        with self._lock:
            self._closed = True
            done = [lent.channel for lent in self._retired]
            if self._current is not None:
                done.append(self._current.channel)
            self._retired.clear()
            self._current = None
        _close(done)

    def _renew(self) -> None:
        """Make the first channel, or the next one when the files have changed; keep the last good one otherwise."""
        now = self._clock()
        if self._current is not None and (self._tls is None or now < self._next_check):
            return
        self._next_check = now + CHECK_FILES_EVERY_S
        if self._tls is None:
            self._current = _Lent(grpc.insecure_channel(self._target, self._settings.options()))
            return
        seen = _state_of(self._tls)
        if self._current is not None and seen == self._seen:
            return
        try:
            credentials = load_credentials(self._tls)
        except ConfigError as error:
            if self._current is None:
                raise
            logger.warning("the channel to the cloud keeps its old certificate: %s", error)
            return
        fresh = _Lent(grpc.secure_channel(self._target, credentials, self._settings.options()))
        self._seen = seen
        if self._current is not None:
            self._current.retired_at = now
            self._retired.append(self._current)
            self._metrics.channel_swapped()
            logger.info("the channel to the cloud was replaced, for new certificates")
        self._current = fresh

    def _take_finished(self) -> list[grpc.Channel]:
        """Take out the retired channels on which nothing runs, or nothing may run any longer."""
        now = self._clock()
        finished = [
            lent
            for lent in self._retired
            if lent.num_calls == 0 or now - (lent.retired_at or now) > OLD_CHANNEL_GRACE_S
        ]
        self._retired = [lent for lent in self._retired if lent not in finished]
        return [lent.channel for lent in finished]


def is_loopback(target: str) -> bool:
    """Tell whether a target is on this machine by its very form; nothing is resolved but the name ``localhost``."""
    if target.startswith("unix:"):
        return True
    host, separator, port = target.rpartition(":")
    if not separator or not port.isdecimal():
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def load_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Read the three files and check what gRPC would only tell at the handshake, and badly.

    Raises:
        ConfigError: A file is missing, is no PEM of its kind, or certificate and key do not belong together.
    """
    ca, certificate, key = (_read(path) for path in (files.ca, files.certificate, files.key))
    try:
        x509.load_pem_x509_certificates(ca)
    except ValueError as error:
        raise ConfigError(f"{files.ca}: holds no certificate; give the CA's PEM file") from error
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError as error:
        raise ConfigError(
            f"{files.certificate}: holds no certificate; give the device's PEM file"
        ) from error
    try:
        private_key = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{files.key}: holds no unencrypted private key; give the device's PEM file"
        ) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private_key.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise ConfigError(
            f"{files.certificate} and {files.key} do not belong together; give the pair of one enrolment"
        )
    return grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=key, certificate_chain=certificate
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); enrol the device, or correct [cloud]"
        ) from error


def _state_of(files: TlsFiles) -> tuple[object, ...]:
    """Describe the files so that any replacement shows."""
    state: list[object] = []
    for path in (files.ca, files.certificate, files.key):
        try:
            status = path.stat()
        except OSError:
            state.append(None)
        else:
            state.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(state)


def _close(channels: list[grpc.Channel]) -> None:
    for channel in channels:
        channel.close()
