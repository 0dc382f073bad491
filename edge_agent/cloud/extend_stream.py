"""Frames over gRPC: one bidirectional stream for each session, opened again when it breaks.

Used by :class:`edge_agent.cloud.client.CloudClient` alone. A broken stream is a miss to its user, who sends the frame again;
that opens a new stream for the same session, and a server that lost it says NeedPrefill.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import grpc

from partition.extend.frame_messages import (
    Opening,
    frame_to_message,
    opening_to_message,
    reply_from_message,
)
from partition.extend.frames import Extend, Mismatch, Reply
from protos.errors import PreconditionError, UnavailableError, WireError, from_rpc_error
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.tracing import trace_metadata

logger = logging.getLogger(__name__)

STREAM_DEADLINE_S = 600.0
FRAME_BYTES = 5  # gRPC's prefix of every message
NUM_BREAKS = 2  # running, after which the cloud counts as gone

_Request = inference_pb2.ExtendRequest
_Response = inference_pb2.ExtendResponse


class ExtendStream:
    """The real :class:`edge_agent.cloud.frame_channel.FrameChannel`. Not thread-safe; close it.

    Args:
        lend: Lends the gRPC channel for as long as a stream lives.
        opening: What both sides must agree on.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[grpc.Channel]],
        opening: Opening,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lend = lend
        self._opening = opening
        self._clock = clock
        self._live: _Stream | None = None
        self._num_breaks = 0
        self.sent_bytes = 0
        self.received_at = 0.0

    @property
    def is_reachable(self) -> bool:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        return self._num_breaks < NUM_BREAKS

    def send(self, frame: Extend) -> None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        if self._live is None:
            self._live = _Stream(self._lend, self._clock)
            self._put(opening_to_message(self._opening))
        self._put(frame_to_message(frame))

    def receive(self, timeout_s: float) -> Reply | None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`.

        Raises:
            WireError: The cloud refuses for good: no such tenant, no such model, not allowed.
        """
        until = self._clock() + timeout_s
        while self._live is not None:
            try:
                event, self.received_at = self._live.events.get(
                    timeout=max(0.0, until - self._clock())
                )
            except queue.Empty:
                return None
            if isinstance(event, WireError):
                return self._broken(event)
            if event.WhichOneof("frame") == "draining":
                return self._broken(UnavailableError("this server is going away"))
            reply = reply_from_message(event)
            if reply is not None:
                self._num_breaks = 0
                return reply
        return None

    def close(self) -> None:
        """See :class:`edge_agent.cloud.frame_channel.FrameChannel`."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _put(self, message: _Request) -> None:
        assert self._live is not None
        self.sent_bytes += message.ByteSize() + FRAME_BYTES
        self._live.requests.put(message)

    def _broken(self, error: WireError) -> Reply | None:
        self.close()
        if isinstance(error, PreconditionError):
            return Mismatch(field="model")
        if not error.is_transient:
            raise error
        self._num_breaks += 1
        logger.debug("the stream of a session broke: %s", error.reason)
        return None


class _Stream:
    """One call of Extend, its writer's queue and its reader's thread."""

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[grpc.Channel]],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self.requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # With the moment of arrival: the device may compute for long before it looks.
        self.events: queue.SimpleQueue[tuple[_Response | WireError, float]] = queue.SimpleQueue()
        self._stack = ExitStack()
        channel = self._stack.enter_context(lend())
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._call: Any = stub.Extend(
            self._outgoing(), timeout=STREAM_DEADLINE_S, metadata=trace_metadata()
        )
        self._reader = threading.Thread(target=self._read, name="tandem-extend", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the call, its writer and its reader."""
        self.requests.put(None)
        self._call.cancel()
        self._reader.join(timeout=5.0)
        self._stack.close()

    def _outgoing(self) -> Iterator[_Request]:
        while (message := self.requests.get()) is not None:
            yield message

    def _read(self) -> None:
        try:
            for response in self._call:
                self._put(response)
        except grpc.RpcError as error:
            self._put(from_rpc_error(error))
        else:
            self._put(UnavailableError("the cloud ended the stream; try again"))

    def _put(self, event: _Response | WireError) -> None:
        self.events.put((event, self._clock()))
