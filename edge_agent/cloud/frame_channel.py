"""The way of frames to the cloud and back: the seam that the real stream and the simulated one both fill.

A channel carries the frames of one session. It may lose, repeat or delay them; the sessions of :mod:`partition.extend.verify` and
:mod:`partition.extend.split` are made for that. Light to import: no gRPC here.
"""

from __future__ import annotations

from typing import Protocol

from partition.extend.frames import Extend, Reply


class FrameChannel(Protocol):
    """Frames of one open session. Not thread-safe."""

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far, framing included."""

    @property
    def received_at(self) -> float:
        """When the last reply arrived, seconds on the clock of whoever opened the channel; it may have waited since."""

    @property
    def is_reachable(self) -> bool:
        """Whether the cloud can be reached at all; False once opening the way again has failed."""

    def send(self, frame: Extend) -> None:
        """Send one frame without waiting for its reply; opens the way again when it was lost."""

    def receive(self, timeout_s: float) -> Reply | None:
        """Wait for the next reply, of whatever frame.

        Returns:
            None when none came in time or the way was lost: to the caller both are a miss.
        """

    def close(self) -> None:
        """End the session's stream."""
