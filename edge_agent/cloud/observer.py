"""Who hears of calls to the cloud, to learn how fast the way and the cloud are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edge_agent.cloud.cloud import CloudAnswer


class CallObserver(Protocol):
    """Hears of calls that went well, from the thread that made them; must not take long."""

    def called(
        self, *, bytes_up: int, bytes_down: int, elapsed_s: float, server_s: float = 0.0
    ) -> None:
        """A call and its first reply, on a connection that was open already.

        Args:
            bytes_up: Sent, framing included.
            bytes_down: Received by then.
            elapsed_s: Between the two, on the device's clock.
            server_s: The server's own time of it, as it says.
        """

    def answered(self, answer: CloudAnswer) -> None:
        """A whole answer of the cloud alone; what it took stands in it."""
