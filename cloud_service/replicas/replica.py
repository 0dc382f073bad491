"""One replica: the whole service, in a process that Ray Serve starts, watches, counts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Final

from ray import serve

from cloud_service.backends.choice import make_backend
from cloud_service.config import CloudConfig, load_config, split_address
from cloud_service.errors import StateStoreError
from cloud_service.logs import set_up_logs
from cloud_service.replicas.roster import Announcement
from cloud_service.replicas.scaling import KV_USAGE, WAITING_RATIO
from cloud_service.server import CloudServer, Endpoints, running_server
from cloud_service.traces import set_up_traces

logger = logging.getLogger(__name__)

ANNOUNCE_EVERY_S: Final = 0.5
ANNOUNCE_WITHIN_S: Final = 2.0
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - read, not listened on


class CloudReplica:
    """The service of one configuration on ports of its own. Its clients do not come through Ray, but to these ports."""

    def __init__(self, config_path: str, front: str) -> None:
        """Say what to serve; :meth:`reconfigure` starts it.

        Args:
            config_path: The service's TOML file on this machine.
            front: Name of the deployment that is to know of this replica.
        """
        self._config = replica_config(Path(config_path))
        self._front = front
        self._stack = contextlib.AsyncExitStack()
        self._server: CloudServer | None = None
        self._endpoints: Endpoints | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._is_ready = False

    async def reconfigure(self, user_config: Any) -> None:
        """Start the service. Ray Serve calls this on the replica's event loop, and counts the replica in when it returns."""
        del user_config
        if self._server is not None:
            return
        set_up_logs(self._config.log_format)
        traces = self._config.traces
        self._stack.callback(set_up_traces(traces.endpoint, sample_ratio=traces.sample_ratio))
        self._server, self._endpoints = await self._stack.enter_async_context(
            running_server(self._config, make_backend=make_backend)
        )
        self._is_ready = True
        self._announcing = asyncio.create_task(self._announce())

    async def check_health(self) -> None:
        """Ray Serve starts another replica when this fails.

        Raises:
            UnavailableError: Nothing answers here.
            RuntimeError: The front is no longer told about this replica.
        """
        if self._server is not None:
            _ = self._server.model_card
        if self._announcing is not None and self._announcing.done() and self._is_ready:
            raise RuntimeError("the replica has stopped announcing itself; it is replaced")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What :mod:`cloud_service.replicas.scaling` decides by."""
        if self._server is None:
            return {}
        read = self._server.metrics.registry.get_sample_value
        waiting = read("tandem_engine_queue_depth") or 0.0
        return {
            KV_USAGE: read("tandem_engine_kv_usage_ratio") or 0.0,
            WAITING_RATIO: waiting / self._config.engine.max_sequences,
        }

    async def __del__(self) -> None:
        """Drain; Ray Serve awaits this when it takes the replica away, and not when the process is killed."""
        self._is_ready = False
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
            with contextlib.suppress(Exception):  # a front that is gone needs no word
                await self._announce_once()
        await self._stack.aclose()

    async def _announce(self) -> None:
        while True:
            try:
                await self._announce_once()
            except Exception as error:  # the front is being started again; it will want to know
                logger.warning("the front cannot be told: %s", type(error).__name__)
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def _announce_once(self) -> None:
        assert self._endpoints is not None
        context = serve.get_replica_context()
        found = self._endpoints
        assert found.health is not None
        announcement = Announcement(
            name=context.replica_id.unique_id,
            devices=_reachable(found.address),
            backends=None if found.backend is None else _reachable(found.backend),
            health=_reachable(found.health),
            metrics=None if found.metrics is None else _reachable(found.metrics),
            process_id=os.getpid(),
            is_ready=self._is_ready,
        )
        front = serve.get_deployment_handle(self._front, context.app_name)
        async with asyncio.timeout(ANNOUNCE_WITHIN_S):
            await front.announce.remote(announcement)


def replica_config(path: Path) -> CloudConfig:
    """Read a service's configuration for one replica of several: every port becomes a free one.

    Raises:
        SettingsError: The file is wrong.
        StateStoreError: Replicas could not share the state that it names.
    """
    config = load_config(path, flags={}, environment=os.environ)
    if config.state.url is None:
        raise StateStoreError("replicas share one state; set `state.url` to a PostgreSQL database")
    if not config.state.master_key_path.exists():
        raise StateStoreError(
            f"{config.state.master_key_path}: replicas share one master key; copy it to every machine first"
        )
    flags: dict[str, Any] = {
        name: _free_port(listen)
        for name in ("listen", "backend_listen", "metrics_listen")
        if (listen := getattr(config, name)) is not None
    }
    # The balancer asks there whether the replica lives.
    flags["health_listen"] = _free_port(config.health_listen or config.listen)
    return load_config(path, flags=flags, environment=os.environ)


def _free_port(listen: str) -> str:
    return f"{listen.rpartition(':')[0]}:0"


def _reachable(address: str) -> str:
    host, port = split_address(address)
    if host not in _WILDCARDS:
        return address
    import ray

    return f"{ray.util.get_node_ip_address()}:{port}"
