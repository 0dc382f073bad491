"""The releases of one server: what a tenant may read of them, who watches, and the hourly signature.

Files are read, signatures made and the fleet's database used in threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import sqlalchemy as sa

from cloud_service.config import ReleasesConfig
from cloud_service.errors import CloudServiceError
from cloud_service.fleet.channels import tenants_of_channels
from cloud_service.fleet.device_reports import DeviceReport, record_report
from cloud_service.fleet.fleet import Fleet
from cloud_service.fleet.rollout import Step
from cloud_service.identity import Identity
from cloud_service.releases.publisher import open_repository, reachable_blobs
from cloud_service.releases.repository import ReleaseRepository
from cloud_service.storage.state_store import StateStore
from protos.errors import InvalidRequestError, NotFoundError, UnsupportedError, WireError

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
LOOK_AT_DESIRED_S = 2.0
HEARTBEAT_S = 60.0
FLEET_DATABASE = "fleet.sqlite3"


class ReleaseService:
    """Everything behind the sync RPCs and the rollouts. Opened at first use; close it."""

    def __init__(self, config: ReleasesConfig) -> None:
        """Take the configuration; opens nothing."""
        self._config = config
        self._parts: tuple[ReleaseRepository, StateStore] | None = None
        self._reachable: dict[str, tuple[int, frozenset[str]]] = {}
        self._versions: dict[str, tuple[int, int]] = {}
        self._ended = asyncio.Event()

    @property
    def _open(self) -> tuple[ReleaseRepository, StateStore]:
        """Open the repository and the fleet's database.

        Raises:
            UnsupportedError: This server publishes nothing.
        """
        if self._config.directory is None:
            raise UnsupportedError(
                "this server publishes no releases; ask the operator for the one that does"
            )
        if self._parts is None:
            folder = self._config.directory
            repository = open_repository(folder, self._config.online_keys)
            self._parts = (repository, open_fleet_store(folder))
        return self._parts

    async def metadata(self, name: str) -> bytes:
        """Return a metadata file.

        Raises:
            NotFoundError: There is none of that name.
        """
        repository, _ = self._open
        data = await asyncio.to_thread(repository.read, name)
        if data is None:
            raise NotFoundError("no such metadata")
        return data

    async def blob(self, tenant: str, digest: str, offset: int) -> tuple[int, AsyncIterator[bytes]]:
        """Return the size of a blob and its bytes from an offset on.

        Raises:
            NotFoundError: There is no such blob, or no channel of this tenant reaches it.
            InvalidRequestError: The offset lies behind its end.
        """
        repository, _ = self._open
        path = repository.blob(digest)
        if path is None or digest not in await asyncio.to_thread(self._blobs_of, tenant):
            raise NotFoundError("no such blob")
        size = path.stat().st_size
        if offset > size:
            raise InvalidRequestError("`offset` lies behind the end; fetch the blob from its start")
        return size, _read(path, offset)

    async def watch(self, tenant: str, channel: str, have_version: int) -> AsyncIterator[int]:
        """Yield each new version of a channel's document, and 0 as a sign of life, until the server ends.

        Raises:
            NotFoundError: It is no channel of this tenant.
        """
        await asyncio.to_thread(self._check_channel, tenant, channel)
        last_s = time.monotonic()
        while not self._ended.is_set():
            version = await asyncio.to_thread(self._version_of, channel)
            if version > have_version:
                have_version, last_s = version, time.monotonic()
                yield version
            elif time.monotonic() - last_s > HEARTBEAT_S:
                last_s = time.monotonic()
                yield 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), LOOK_AT_DESIRED_S)

    async def record(self, identity: Identity, report: DeviceReport) -> int:
        """Store a report.

        Raises:
            NotFoundError: It names a channel that is not this tenant's.
        """
        _, store = self._open
        await asyncio.to_thread(self._check_channel, identity.tenant, report.channel)
        return await store.run(
            lambda connection: record_report(connection, identity, report, now=time.time())
        )

    async def keep_house(self) -> None:
        """Sign the timestamp hourly and look at the rollouts each minute, until cancelled."""
        if self._config.directory is None or self._config.online_keys is None:
            return
        signed_s = -self._config.sign_every_s
        while True:
            try:
                repository, store = self._open
                if time.monotonic() - signed_s >= self._config.sign_every_s:
                    await asyncio.to_thread(_refresh, repository)
                    signed_s = time.monotonic()
                for channel in tenants_of_channels(self._config.directory):
                    await store.run(_Look(repository, channel))
            except (CloudServiceError, WireError, OSError) as error:
                logger.warning("releases: %s", error)
            await asyncio.sleep(self._config.look_every_s)

    def end_watches(self) -> None:
        """End every watch; devices come back to another server."""
        self._ended.set()

    def close(self) -> None:
        """Close the fleet's database; harmless when repeated."""
        if self._parts is not None:
            self._parts[1].close()
            self._parts = None

    def _channels_of(self, tenant: str) -> list[str]:
        repository, _ = self._open
        channels = tenants_of_channels(repository.folder)
        return [name for name, tenants in channels.items() if tenant in tenants]

    def _check_channel(self, tenant: str, channel: str) -> None:
        if channel not in self._channels_of(tenant):
            raise NotFoundError("no such channel; ask the operator for the one of this device")

    def _version_of(self, channel: str) -> int:
        """Return the version of a channel's document; read again only when the repository has changed."""
        repository, _ = self._open
        if not repository.is_published:
            return 0
        changed = (repository.folder / "metadata" / "timestamp.json").stat().st_mtime_ns
        known = self._versions.get(channel)
        if known is None or known[0] != changed:
            desired = repository.desired(channel)
            known = (changed, desired.version if desired is not None else 0)
            self._versions[channel] = known
        return known[1]

    def _blobs_of(self, tenant: str) -> frozenset[str]:
        repository, _ = self._open
        version = repository.timestamp.signed.snapshot_meta.version
        found: set[str] = set()
        for channel in self._channels_of(tenant):
            known = self._reachable.get(channel)
            if known is None or known[0] != version:
                known = (version, reachable_blobs(repository, channel))
                self._reachable[channel] = known
            found |= known[1]
        return frozenset(found)


class _Look:
    """One look at one channel, as work for the store."""

    def __init__(self, repository: ReleaseRepository, channel: str) -> None:
        self._fleet = Fleet(repository)
        self._channel = channel

    def __call__(self, connection: sa.Connection) -> Step:
        return self._fleet.look(connection, self._channel)


def open_fleet_store(folder: Path) -> StateStore:
    """Open the fleet's database of a repository; the service and commands may share it.

    Raises:
        StateStoreError: It cannot be opened.
    """
    return StateStore(f"sqlite:///{folder / FLEET_DATABASE}")


def _refresh(repository: ReleaseRepository) -> None:
    if repository.is_published:
        repository.refresh()


async def _read(path: Path, offset: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(offset)
        while data := await asyncio.to_thread(file.read, READ_BYTES):
            yield data
    finally:
        file.close()
