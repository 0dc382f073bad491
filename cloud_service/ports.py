"""The service's ports: how each is opened, and what its channels are told."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from cloud_service.config import CloudConfig, split_address
from cloud_service.errors import CloudServiceError
from cloud_service.tenancy.credentials import backend_credentials, server_credentials


def server_options(config: CloudConfig) -> list[tuple[str, int]]:
    """The channel arguments of every port; the pairs with the client's are explained in docs."""
    size = config.limits.max_message_bytes
    return [
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # As on the device: without it a half-open link is given up after a minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.max_connection_age_ms", 30 * 60_000),
        ("grpc.max_connection_age_grace_ms", 2 * 60_000),
        ("grpc.max_concurrent_streams", config.limits.max_concurrent_streams),
        ("grpc.so_reuseport", 0),
    ]


def open_main_port(server: grpc.aio.Server, config: CloudConfig) -> str:
    """Open the devices' port; returns its address.

    Raises:
        CloudServiceError: It is taken, or a certificate cannot be read; likewise of the others.
    """
    listen = config.listen
    credentials = None if config.tls.insecure_loopback else server_credentials(config.tls)
    try:
        if credentials is None:
            return _joined(listen, server.add_insecure_port(listen))
        return _joined(listen, server.add_secure_port(listen, credentials))
    except RuntimeError as error:
        raise _taken(listen, "another with --listen") from error


def open_backend_port(server: grpc.aio.Server, config: CloudConfig) -> str | None:
    """Open the port of callers without certificate, if there is to be one."""
    listen = config.backend_listen
    if listen is None:
        return None
    credentials = backend_credentials(config.tls)
    try:
        return _joined(listen, server.add_secure_port(listen, credentials))
    except RuntimeError as error:
        raise _taken(listen, "another `backend_listen`") from error


def open_probe_port(server: grpc.aio.Server, listen: str) -> str:
    """Open the port of health probes, which have no certificate."""
    try:
        return _joined(listen, server.add_insecure_port(listen))
    except RuntimeError as error:
        raise _taken(listen, "another `health_listen`") from error


def open_metrics_port(listen: str, registry: CollectorRegistry) -> tuple[str, Callable[[], None]]:
    """Serve metrics over HTTP; returns the address, and what ends it."""
    host, port = split_address(listen)
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise _taken(listen, "another `metrics_listen`") from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return _joined(listen, server.server_port), close


def _joined(listen: str, port: int) -> str:
    host, _ = split_address(listen)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(listen: str, what: str) -> CloudServiceError:
    return CloudServiceError(f"{listen}: the port cannot be opened; choose {what}")
