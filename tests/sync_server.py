"""The sync service over real gRPC, without the rest of the cloud; everybody is the same device of one tenant."""

from __future__ import annotations

import asyncio
import threading

import grpc

from cloud_service.fleet.release_service import ReleaseService
from cloud_service.identity import Identity
from cloud_service.metrics import Metrics
from cloud_service.rpc.interceptors import GuardInterceptor, observed, translated
from cloud_service.rpc.sync_servicer import SyncServicer
from protos.sync.v1 import sync_pb2_grpc


class Server:
    """A context manager; serves in an event loop of its own thread."""

    def __init__(self, config, tenant="clinic"):
        self._config = config
        self._tenant = tenant
        self._ready = threading.Event()
        self._stop = None
        self.releases = None
        self.port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        metrics = Metrics()
        self.releases = ReleaseService(self._config)
        identity = Identity(tenant=self._tenant, device="ct-1")

        async def identified(call, answer):
            call.known_identity = identity
            return await answer(call)

        guards = (observed(metrics), translated(), identified)
        server = grpc.aio.server(interceptors=[GuardInterceptor(guards, metrics)])
        sync_pb2_grpc.add_SyncServiceServicer_to_server(SyncServicer(self.releases), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        house = asyncio.create_task(self.releases.keep_house())
        self._ready.set()
        await self._stop.wait()
        self.releases.end_watches()
        await server.stop(1)
        house.cancel()
        await asyncio.gather(house, return_exceptions=True)
        self.releases.close()
