"""A gRPC relay that stands where the cloud stands and keeps every byte the device sends.

It ends the device's TLS with the server's own certificate and passes each call on with the device's certificate, so what it
keeps is what really crossed the socket, after decryption: method, metadata and message bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

# As the real server has it, or the device's pings would be taken for an attack.
_PERMIT_KEEPALIVE = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class Pki:
    """The files that `cloud-service init` writes."""

    ca: Path
    server_certificate: Path
    server_key: Path
    device_certificate: Path
    device_key: Path


@dataclass(frozen=True, slots=True)
class Capture:
    """One message from the device, or the metadata of one call."""

    method: str
    data: bytes
    is_metadata: bool = False


class Wiretap:
    """Listens on loopback, relays to ``target``; use as a context manager. Thread-safe."""

    def __init__(self, target: str, pki: Pki) -> None:
        self._lock = threading.Lock()
        self._captures: list[Capture] = []
        self._channel = grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(
                pki.ca.read_bytes(),
                pki.device_key.read_bytes(),
                pki.device_certificate.read_bytes(),
            ),
        )
        self._server = grpc.server(
            ThreadPoolExecutor(16), handlers=(_Relay(self),), options=_PERMIT_KEEPALIVE
        )
        credentials = grpc.ssl_server_credentials(
            [(pki.server_key.read_bytes(), pki.server_certificate.read_bytes())],
            root_certificates=pki.ca.read_bytes(),
            require_client_auth=True,
        )
        self._port = self._server.add_secure_port("127.0.0.1:0", credentials)

    @property
    def target(self) -> str:
        """Where the device shall connect to."""
        return f"localhost:{self._port}"

    @property
    def captures(self) -> tuple[Capture, ...]:
        """Everything kept so far, in order."""
        with self._lock:
            return tuple(self._captures)

    def __enter__(self) -> Wiretap:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(grace=1).wait()
        self._channel.close()

    def _keep(self, capture: Capture) -> None:
        with self._lock:
            self._captures.append(capture)

    def relay(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Pass one call on, whatever its kind, and its answer back."""
        metadata = tuple(context.invocation_metadata())
        lines = b"\n".join(f"{key}: {value!r}".encode() for key, value in metadata)
        self._keep(Capture(method, lines, is_metadata=True))

        def kept() -> Iterator[bytes]:
            for request in requests:
                self._keep(Capture(method, request))
                yield request

        passed_on = tuple(
            pair for pair in metadata if not pair[0].startswith(("grpc-", "user-agent"))
        )
        call = self._channel.stream_stream(method)(
            kept(), metadata=passed_on, timeout=context.time_remaining()
        )
        context.add_callback(call.cancel)
        try:
            yield from call
        except grpc.RpcError as error:
            context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            context.abort(error.code(), error.details() or "")


class _Relay(grpc.GenericRpcHandler):
    """Takes every method as a stream of bytes each way, which all four kinds of call are on the wire."""

    def __init__(self, wiretap: Wiretap) -> None:
        self._wiretap = wiretap

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._wiretap.relay(details.method, requests, context)

        return grpc.stream_stream_rpc_method_handler(handle)
