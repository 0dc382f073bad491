"""The sync RPCs: wire messages in and out; what a tenant may read is the release service's question."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from cloud_service.fleet.device_reports import DeviceReport
from cloud_service.fleet.release_service import ReleaseService
from cloud_service.rpc.calls import current_call
from cloud_service.rpc.request_checks import checked_request_id
from partition.release.desired import CHANNEL_PATTERN
from partition.release.manifest import RELEASE_PATTERN
from protos.errors import InvalidRequestError
from protos.sync.v1 import sync_pb2, sync_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

CHUNK_BYTES: Final = 256 << 10
MAX_ROUTES: Final = 16
_WORD = re.compile(r"[a-z_]{0,32}")
_LABEL = re.compile(r"[A-Za-z0-9._-]{0,63}")
_CLOUD_ROUTES: Final = ("CLOUD", "VERIFY", "SPLIT")


class SyncServicer(sync_pb2_grpc.SyncServiceServicer):
    """Releases to devices, and what devices say about them."""

    def __init__(self, releases: ReleaseService) -> None:
        """Take what answers."""
        self._releases = releases

    async def GetMetadata(  # noqa: N802 - the wire's name
        self, request: sync_pb2.GetMetadataRequest, context: Context
    ) -> sync_pb2.GetMetadataResponse:
        """Signed metadata; the same for every tenant."""
        return sync_pb2.GetMetadataResponse(content=await self._releases.metadata(request.name))

    async def GetBlob(  # noqa: N802 - the wire's name
        self, request: sync_pb2.GetBlobRequest, context: Context
    ) -> AsyncIterator[sync_pb2.GetBlobResponse]:
        """A file of a release, from an offset on."""
        tenant = current_call().identity.tenant
        size, pieces = await self._releases.blob(tenant, request.digest, request.offset)
        at = request.offset
        async for piece in pieces:
            for start in range(0, len(piece), CHUNK_BYTES):
                data = piece[start : start + CHUNK_BYTES]
                yield sync_pb2.GetBlobResponse(offset=at, total_bytes=size, data=data)
                at += len(data)

    async def WatchDesired(  # noqa: N802 - the wire's name
        self, request: sync_pb2.WatchDesiredRequest, context: Context
    ) -> AsyncIterator[sync_pb2.WatchDesiredResponse]:
        """Hints that there is something new; the device verifies everything itself."""
        tenant = current_call().identity.tenant
        async for version in self._releases.watch(tenant, request.channel, request.have_version):
            yield sync_pb2.WatchDesiredResponse(version=version)

    async def Report(  # noqa: N802 - the wire's name
        self, request: sync_pb2.ReportRequest, context: Context
    ) -> sync_pb2.ReportResponse:
        """Store what a device says; the report's number makes a repetition harmless."""
        call = current_call()
        call.request_id = checked_request_id(request)
        newest = await self._releases.record(call.identity, _checked(request))
        return sync_pb2.ReportResponse(report_seq=newest)


def _checked(request: sync_pb2.ReportRequest) -> DeviceReport:
    state = sync_pb2.ReleaseState.Name(request.state) if request.state in _STATES else ""
    problems = {
        "channel": re.fullmatch(CHANNEL_PATTERN, request.channel),
        "release": not request.release or re.fullmatch(RELEASE_PATTERN, request.release),
        "previous_release": not request.previous_release
        or re.fullmatch(RELEASE_PATTERN, request.previous_release),
        "state": state,
        "error_kind": _WORD.fullmatch(request.error_kind),
        "hardware_class": _LABEL.fullmatch(request.hardware_class),
        "latency_p50_ms": _is_duration(request.latency_p50_ms),
        "latency_p95_ms": _is_duration(request.latency_p95_ms),
        "report_seq": 0 < request.report_seq < 1 << 53,
        "release_counter": request.release_counter < 1 << 53,
        "min_release_counter": request.min_release_counter < 1 << 53,
        "free_disk_bytes": request.free_disk_bytes < 1 << 62,
        "free_memory_bytes": request.free_memory_bytes < 1 << 62,
        "route_shares": len(request.route_shares) <= MAX_ROUTES
        and all(0 <= share.share <= 1 for share in request.route_shares),
    }
    for field, is_fine in problems.items():
        if not is_fine:
            raise InvalidRequestError(f"`{field}` has a value that no device reports; update it")
    shares = [share.share for share in request.route_shares if share.route in _CLOUD_ROUTES]
    return DeviceReport(
        channel=request.channel,
        report_seq=request.report_seq,
        release=request.release,
        state=state.removeprefix("RELEASE_STATE_"),
        previous_release=request.previous_release,
        release_counter=request.release_counter,
        min_release_counter=request.min_release_counter,
        error_kind=request.error_kind,
        hardware_class=request.hardware_class,
        latency_p50_ms=request.latency_p50_ms,
        latency_p95_ms=request.latency_p95_ms,
        cloud_share=sum(shares) if request.route_shares else None,
        free_disk_bytes=request.free_disk_bytes,
        free_memory_bytes=request.free_memory_bytes,
    )


def _is_duration(value: float) -> bool:
    return math.isfinite(value) and 0 <= value < 1e9


_STATES: Final = frozenset(sync_pb2.ReleaseState.values()) - {sync_pb2.RELEASE_STATE_UNSPECIFIED}
