"""What a service does beside answering: it forgets what is old, renews its leases and saves sessions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Coroutine
from typing import Any, Final

from cloud_service.rpc.servicers import ServiceParts
from cloud_service.tenancy.devices import Devices
from protos.errors import UnavailableError

FORGET_EVERY_S: Final = 30.0
LAG_PROBE_S: Final = 0.5
SAVE_EVERY_S: Final = 0.25  # what a kill may cost a session; the frames find out


class Housekeeping:
    """Works that go on until they are cancelled."""

    def __init__(self, parts: ServiceParts, devices: Devices) -> None:
        self._parts = parts
        self._devices = devices

    def works(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """All of them; each is to be a task of its own."""
        return self._forget(), self._renew_leases(), self._save_sessions(), self._watch_lag()

    async def save_changed(self) -> None:
        """Save the sessions that a frame has changed.

        Raises:
            UnavailableError: The database cannot be written.
        """
        parts = self._parts
        if changed := parts.sessions.take_unsaved():
            await parts.store.run(
                lambda connection: parts.saved_sessions.save(connection, changed, now=time.time())
            )

    async def _forget(self) -> None:
        parts = self._parts
        while True:
            await asyncio.sleep(min(FORGET_EVERY_S, parts.config.limits.session_ttl_s))
            parts.sessions.purge(time.monotonic())
            with contextlib.suppress(Exception):  # a locked database is told where it matters
                for forgetful in (parts.dedupe, parts.saved_sessions, self._devices):
                    await parts.store.run(functools.partial(forgetful.purge, now=time.time()))

    async def _renew_leases(self) -> None:
        parts, lease_s = self._parts, self._parts.config.state.lease_s
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
                await self.save_changed()

    async def _watch_lag(self) -> None:
        while True:
            due_s = time.monotonic() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            lag_s = max(0.0, time.monotonic() - due_s)
            self._parts.metrics.loop_lag_seconds.set(lag_s)
