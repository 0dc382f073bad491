"""The service as a whole: what is started, in which order, and how it goes away.

Going away, all within 25 s (preemptible machines give 30):

1. health says NOT_SERVING, new calls are refused with RetryInfo; balancers get ``balancer_s`` to notice;
2. running answers get ``finish_s``; those that do not finish are handed over with a resume token;
3. the port is closed, every handler's ``finally`` has run, engine and database are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_service.backends.backend import Backend, ModelSlot
from cloud_service.config import CloudConfig
from cloud_service.fleet.release_service import ReleaseService
from cloud_service.housekeeping import Housekeeping
from cloud_service.identity import LOOPBACK_IDENTITY
from cloud_service.logs import Event
from cloud_service.metrics import Metrics
from cloud_service.ports import (
    open_backend_port,
    open_main_port,
    open_metrics_port,
    open_probe_port,
    server_options,
)
from cloud_service.rpc.access import Access
from cloud_service.rpc.deadlines import Deadlines
from cloud_service.rpc.enrolment_servicer import Enrolment, EnrolmentServicer
from cloud_service.rpc.interceptors import (
    GuardInterceptor,
    RunningCalls,
    observed,
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
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.tenants import make_tenants
from cloud_service.tenancy.tokens import TokenVerifier
from partition.extend.model_card import ModelCard
from protos.enrolment.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.errors import UnavailableError
from protos.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.sync.v1 import sync_pb2, sync_pb2_grpc

logger = logging.getLogger(__name__)

BackendFactory = Callable[[CloudConfig, Metrics], Awaitable[Backend]]

HAND_OVER_S: Final = 2.0  # for the last messages of handed over answers
HANDLERS_END_S: Final = 2.0
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
        self._housekeeping = Housekeeping(self._parts, devices)
        self._enrolment = Enrolment(config, store, devices)
        self._calls = RunningCalls()
        self.metrics.rpc_in_flight.set_function(lambda: len(self._calls))
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
        config = self._config
        address = open_main_port(self._server, config)
        backend_address = open_backend_port(self._server, config)
        health_address = self._open_probe_port()
        metrics_address = None
        if config.metrics_listen is not None:
            metrics_address, self._close_metrics = open_metrics_port(
                config.metrics_listen, self.metrics.registry
            )
        await self._server.start()
        await self._probes.start()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                *self._housekeeping.works(),
                self._access.end_refused(),
                self._releases.keep_house(),
            )
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
            await self._housekeeping.save_changed()
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
            Deadlines(self.metrics).guard,
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

    def _open_probe_port(self) -> str | None:
        if self._config.health_listen is None:
            return None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
        return open_probe_port(self._probes, self._config.health_listen)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *_SERVICES):
            await self._health.set(name, status)


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
