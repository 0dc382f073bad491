"""Carries synchronisation over gRPC: a channel of its own, blocking calls, and every error in our words.

Nothing of any request goes this way, and nothing that comes this way is believed before it is verified. Calls are not
tried again here: a blob goes on by offset (:mod:`edge_agent.sync.download`), a cycle as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from edge_agent.cloud.channel import ChannelSettings, CloudChannel, TlsFiles
from edge_agent.cloud.sync_transport import BlobChunk, Reported
from edge_agent.metrics import Metrics
from protos.errors import UnavailableError, WireError, from_rpc_error
from protos.sync.v1 import sync_pb2, sync_pb2_grpc

SMALL_CALL_S = 10.0
BLOB_CALL_S = 600.0  # then it goes on by offset
WATCH_CALL_S = 3600.0
_SERVICE = "tandem.sync.v1.SyncService"


class GrpcSyncTransport:
    """Fills :class:`edge_agent.cloud.sync_transport.SyncTransport`. Connects at the first call; close it."""

    def __init__(
        self,
        target: str,
        *,
        credentials: TlsFiles | None = None,
        insecure_loopback: bool = False,
        settings: ChannelSettings | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the arguments; opens nothing.

        Raises:
            ConfigError: No target, no certificates, or plaintext to another machine.
        """
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._channel = CloudChannel(
            target,
            tls=credentials,
            insecure_loopback=insecure_loopback,
            settings=settings,
            metrics=self._metrics,
            clock=clock,
        )

    def get_metadata(self, name: str) -> bytes:
        """Return a metadata file; see the protocol."""
        request = sync_pb2.GetMetadataRequest(name=name)
        with self._call("GetMetadata") as stub:
            return bytes(stub.GetMetadata(request, timeout=SMALL_CALL_S).content)

    def get_blob(self, digest: str, offset: int) -> Iterator[BlobChunk]:
        """Yield a blob from an offset on; see the protocol."""
        request = sync_pb2.GetBlobRequest(digest=digest, offset=offset)
        with self._call("GetBlob") as stub:
            call = stub.GetBlob(request, timeout=BLOB_CALL_S)
            try:
                for chunk in call:
                    yield BlobChunk(chunk.offset, chunk.data)
            finally:
                call.cancel()  # of a stream that has ended already: no effect

    def watch_desired(self, channel: str, have_version: int) -> Iterator[int]:
        """Yield versions as they appear; see the protocol."""
        request = sync_pb2.WatchDesiredRequest(channel=channel, have_version=have_version)
        with self._call("WatchDesired") as stub:
            call = stub.WatchDesired(request, timeout=WATCH_CALL_S)
            try:
                for response in call:
                    yield int(response.version)
            finally:
                call.cancel()

    def report(self, request_id: str, reported: Reported) -> None:
        """Tell the cloud; see the protocol."""
        request = sync_pb2.ReportRequest(
            request_id=request_id,
            report_seq=reported.report_seq,
            channel=reported.channel,
            release=reported.release,
            state=f"RELEASE_STATE_{reported.state}",
            previous_release=reported.previous_release,
            manifest_sha256=reported.manifest_sha256,
            error_kind=reported.error_kind,
            latency_p50_ms=reported.latency_p50_ms,
            latency_p95_ms=reported.latency_p95_ms,
            route_shares=[
                sync_pb2.RouteShare(route=route, share=share)
                for route, share in reported.route_shares
            ],
            free_disk_bytes=reported.free_disk_bytes,
            free_memory_bytes=reported.free_memory_bytes,
            hardware_class=reported.hardware_class,
            release_counter=reported.release_counter,
            min_release_counter=reported.min_release_counter,
        )
        with self._call("Report") as stub:
            stub.Report(request, timeout=SMALL_CALL_S)

    def close(self) -> None:
        """End every call and close the connection. A second call does nothing."""
        self._channel.close()

    @contextmanager
    def _call(self, method: str) -> Iterator[Any]:
        """Lend the channel to one call, count it, and translate every error on its way out."""
        started, code = self._clock(), grpc.StatusCode.OK
        self._metrics.call_started(_SERVICE, method)
        try:
            with self._channel.lend() as channel:
                try:
                    yield sync_pb2_grpc.SyncServiceStub(channel)
                except grpc.RpcError as error:
                    raise from_rpc_error(error) from error
                except ValueError as error:  # grpc's way to say that the channel was closed
                    raise UnavailableError("the way to the cloud was closed; try again") from error
        except WireError as error:
            code = error.code
            raise
        finally:
            self._metrics.call_handled(
                _SERVICE,
                method,
                code=code.name,
                duration_s=self._clock() - started,
                sent_bytes=0,
                received_bytes=0,
            )
