"""The service as a whole: what is started, in which order, and how it goes away.

Going away, all within 25 s (preemptible machines give 30):

1. health says NOT_SERVING, new calls are refused with RetryInfo; balancers get ``balancer_s`` to notice;
2. running answers get ``finish_s``; those that do not finish are handed over with a resume token;
3. the port is closed, every handler's ``finally`` has run, engine and database are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import start_http_server

from cloud_service.backends.backend import Backend, ModelSlot
from cloud_service.config import CloudConfig, split_address
from cloud_service.errors import CloudServiceError
from cloud_service.fleet.release_service import ReleaseService
from cloud_service.identity import LOOPBACK_IDENTITY
from cloud_service.logs import Event
from cloud_service.metrics import Metrics
from cloud_service.model_card import ModelCard
from cloud_service.rpc.access import Access
from cloud_service.rpc.enrolment_servicer import Enrolment, EnrolmentServicer
from cloud_service.rpc.interceptors import (
    GuardInterceptor,
    RunningCalls,
    observed,
    timed,
    traced,
    translated,
)
from cloud_service.rpc.servicers import (
    FeedbackServicer,
    InferenceServicer,
    ServiceParts,
)
from cloud_service.rpc.sync_servicer import SyncServicer
from cloud_service.storage.dedupe import Dedupe
from cloud_service.storage.envelope import Envelope, load_master_key
from cloud_service.storage.saved_sessions import SavedSessions
from cloud_service.storage.sessions import SessionTable
from cloud_service.storage.state_store import StateStore, open_state
from cloud_service.tenancy.credentials import backend_credentials, server_credentials
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.tenants import make_tenants
from cloud_service.tenancy.tokens import TokenVerifier
from protos.enrolment.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.errors import UnavailableError
from protos.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.sync.v1 import sync_pb2, sync_pb2_grpc

logger = logging.getLogger(__name__)

BackendFactory = Callable[[CloudConfig, Metrics], Awaitable[Backend]]

HAND_OVER_S: Final = 2.0  # for the last messages of handed over answers
HANDLERS_END_S: Final = 2.0
HOUSEKEEPING_S: Final = 30.0
LAG_PROBE_S: Final = 0.5
SAVE_EVERY_S: Final = 0.25  # what a kill may cost a session; the frames find out
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICES: Final = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (inference_pb2.DESCRIPTOR, "InferenceService"),
        (feedback_pb2.DESCRIPTOR, "FeedbackService"),
        (sync_pb2.DESCRIPTOR, "SyncService"),
        (enrolment_pb2.DESCRIPTOR, "EnrolmentService"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the service can be reached; ``host:port`` each."""

    address: str
    backend: str | None
    health: str | None
    metrics: str | None


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


class CloudServer:
    """One service in one event loop: :meth:`start`, then :meth:`drain` once."""

    def __init__(
        self, config: CloudConfig, store: StateStore, *, make_backend: BackendFactory
    ) -> None:
        self.metrics = Metrics()
        self._config = config
        self._make_backend = make_backend
        master_key = load_master_key(config.state.master_key_path)
        envelope = Envelope(master_key)
        tenants = make_tenants(store, master_key, config)
        devices = Devices(store, tenants, master_key)
        self._parts = ServiceParts(
            config=config,
            models=ModelSlot(),
            store=store,
            envelope=envelope,
            dedupe=Dedupe(store, envelope),
            tenants=tenants,
            sessions=SessionTable(
                max_sessions=config.limits.max_sessions,
                max_per_tenant=config.limits.max_sessions_per_tenant,
                ttl_s=config.limits.session_ttl_s,
            ),
            saved_sessions=SavedSessions(envelope, ttl_s=config.limits.session_ttl_s),
            metrics=self.metrics,
        )
        self._releases = ReleaseService(config.releases)
        self.metrics.sessions.set_function(lambda: len(self._parts.sessions))
        self._access = Access(
            store,
            tenants,
            devices,
            TokenVerifier(config.tenants.token_keys),
            self.metrics,
            plaintext=LOOPBACK_IDENTITY if config.tls.insecure_loopback else None,
        )
        self._devices = devices
        self._enrolment = Enrolment(config, store, devices)
        self._calls = RunningCalls()
        self._health = health.aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []
        self._server = self._make_server()
        self._probes = grpc.aio.server()
        self._close_metrics: Callable[[], None] | None = None

    @property
    def model_card(self) -> ModelCard:
        """The model that answers; UnavailableError before :meth:`start` has returned."""
        return self._parts.models.get("").card

    async def start(self) -> Endpoints:
        """Open the ports, then load the model; returns when it is warm.

        Raises:
            CloudServiceError: A port is taken, a certificate or the model cannot be read.
        """
        await self._set_health(_NOT_SERVING)
        if self._parts.store.is_sqlite:  # ours alone, so nobody is answering anything
            await self._parts.store.run(self._parts.dedupe.end_leases)
        address = self._open_main_port()
        backend_address = self._open_backend_port()
        health_address = self._open_probe_port()
        metrics_address = self._open_metrics_port()
        await self._server.start()
        await self._probes.start()
        self._tasks = [
            asyncio.create_task(self._keep_house()),
            asyncio.create_task(self._renew_leases()),
            asyncio.create_task(self._save_sessions()),
            asyncio.create_task(self._access.end_refused()),
            asyncio.create_task(self._watch_lag()),
            asyncio.create_task(self._releases.keep_house()),
        ]
        backend = await self._make_backend(self._config, self.metrics)
        self._parts.models.fill(backend)
        await self._set_health(_SERVING)
        logger.info(Event("serving", model=backend.card.name))
        return Endpoints(
            address=address,
            backend=backend_address,
            health=health_address,
            metrics=metrics_address,
        )

    async def drain(self) -> None:
        """Go away in good order; harmless when repeated."""
        started_s, drain = time.monotonic(), self._config.drain
        self._calls.is_draining = True
        self._parts.draining.set()
        self._releases.end_watches()
        await self._health.enter_graceful_shutdown()
        if len(self._calls):
            await asyncio.sleep(drain.balancer_s)
        if not await self._calls.wait(drain.finish_s):
            self._parts.interrupt.set()
            await self._calls.wait(HAND_OVER_S)
        await self._server.stop(HAND_OVER_S / 4)
        await self._calls.wait(HANDLERS_END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._parts.sessions.close()
        with contextlib.suppress(UnavailableError):  # then devices send their prompts again
            await self._save_changed()
        await self._parts.models.close()
        await asyncio.to_thread(self._releases.close)
        await self._probes.stop(None)
        if self._close_metrics is not None:
            await asyncio.to_thread(self._close_metrics)
            self._close_metrics = None
        seconds = time.monotonic() - started_s
        self.metrics.drain_seconds.set(seconds)
        logger.info(Event("drained", s=round(seconds, 2)))

    def _make_server(self) -> grpc.aio.Server:
        guards = (
            traced,
            observed(self.metrics),
            translated(),
            self._calls.guard,
            timed(self.metrics),
            self._access.identified,
            self._access.metered,
        )
        server = grpc.aio.server(
            interceptors=[GuardInterceptor(guards, self.metrics)],
            options=server_options(self._config),
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(self._parts), server
        )
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(
            FeedbackServicer(self._parts), server
        )
        sync_pb2_grpc.add_SyncServiceServicer_to_server(SyncServicer(self._releases), server)
        enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            EnrolmentServicer(self._enrolment), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._config.reflection:
            from grpc_reflection.v1alpha import reflection

            names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _open_main_port(self) -> str:
        listen = self._config.listen
        host, _ = split_address(listen)
        try:
            if self._config.tls.insecure_loopback:
                port = self._server.add_insecure_port(listen)
            else:
                credentials = server_credentials(self._config.tls)
                port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise CloudServiceError(
                f"{listen}: the port cannot be opened; choose another with --listen"
            ) from error
        return _join(host, port)

    def _open_backend_port(self) -> str | None:
        listen = self._config.backend_listen
        if listen is None:
            return None
        try:
            credentials = backend_credentials(self._config.tls)
            port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise CloudServiceError(
                f"{listen}: the port cannot be opened; choose another `backend_listen`"
            ) from error
        return _join(split_address(listen)[0], port)

    def _open_probe_port(self) -> str | None:
        listen = self._config.health_listen
        if listen is None:
            return None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
        try:
            port = self._probes.add_insecure_port(listen)
        except RuntimeError as error:
            raise CloudServiceError(
                f"{listen}: the port cannot be opened; choose another `health_listen`"
            ) from error
        return _join(split_address(listen)[0], port)

    def _open_metrics_port(self) -> str | None:
        listen = self._config.metrics_listen
        if listen is None:
            return None
        host, port = split_address(listen)
        try:
            server, thread = start_http_server(port, host, registry=self.metrics.registry)
        except OSError as error:
            raise CloudServiceError(
                f"{listen}: the port cannot be opened; choose another `metrics_listen`"
            ) from error

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._close_metrics = close
        return _join(host, server.server_port)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *_SERVICES):
            await self._health.set(name, status)

    async def _keep_house(self) -> None:
        parts = self._parts
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            parts.sessions.purge(time.monotonic())
            with contextlib.suppress(Exception):  # a locked database is told where it matters
                await parts.store.run(
                    lambda connection: parts.dedupe.purge(connection, now=time.time())
                )
                await parts.store.run(
                    lambda connection: parts.saved_sessions.purge(connection, now=time.time())
                )
                await parts.store.run(
                    lambda connection: self._devices.purge(connection, now=time.time())
                )

    async def _renew_leases(self) -> None:
        parts, lease_s = self._parts, self._config.state.lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            if not (attempts := tuple(parts.attempts)):
                continue
            renew = functools.partial(
                parts.dedupe.renew, attempts=attempts, until=time.time() + lease_s
            )
            with contextlib.suppress(UnavailableError):  # tried again long before they end
                await parts.store.run(renew)

    async def _save_sessions(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            with contextlib.suppress(UnavailableError):  # the next frame marks them again
                await self._save_changed()

    async def _save_changed(self) -> None:
        parts = self._parts
        if changed := parts.sessions.take_unsaved():
            await parts.store.run(
                lambda connection: parts.saved_sessions.save(connection, changed, now=time.time())
            )

    async def _watch_lag(self) -> None:
        while True:
            due_s = time.monotonic() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self.metrics.loop_lag_seconds.set(max(0.0, time.monotonic() - due_s))


@contextlib.asynccontextmanager
async def running_server(
    config: CloudConfig, *, make_backend: BackendFactory
) -> AsyncIterator[tuple[CloudServer, Endpoints]]:
    """Start a service and drain it at the end of the block, also when starting fails halfway."""
    url = config.state.url
    with open_state(
        None if url is None else url.get_secret_value(), config.state.directory
    ) as store:
        server = CloudServer(config, store, make_backend=make_backend)
        try:
            yield server, await server.start()
        finally:
            await server.drain()


async def serve(
    config: CloudConfig,
    *,
    make_backend: BackendFactory,
    on_ready: Callable[[CloudServer, Endpoints], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waiting = asyncio.create_task(stop.wait())
    async with contextlib.AsyncExitStack() as stack:
        # Loading a model takes long, and a signal meanwhile must not wait for it.
        starting = asyncio.create_task(
            stack.enter_async_context(running_server(config, make_backend=make_backend))
        )
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        on_ready(*starting.result())
        await waiting


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
