"""A link of a chosen round trip and bandwidth, inside this process: a TCP proxy on loopback with a delay line each way."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Self

_PIECE_BYTES = 16_384


class ShapedLink:
    """Carries connections to a port of this machine; a context manager.

    Each direction takes half the round trip, and its bytes go one after the other at the bandwidth. Latency does not hold
    back what follows, as in a real link: pieces are on the way together.

    Args:
        target_port: Where connections go.
        round_trip_s: Added to what loopback takes.
        bytes_per_s: Of each direction.
    """

    def __init__(self, target_port: int, *, round_trip_s: float, bytes_per_s: float) -> None:
        self._target_port = target_port
        self._one_way_s = round_trip_s / 2
        self._bytes_per_s = bytes_per_s
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(("127.0.0.1", self._target_port))
            self._sockets += [near, far]
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._join(near, far)
            self._join(far, near)

    def _join(self, source: socket.socket, sink: socket.socket) -> None:
        pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def read() -> None:
            free_at = 0.0  # when the wire has sent what came before
            while True:
                try:
                    data = source.recv(_PIECE_BYTES)
                except OSError:
                    data = b""
                free_at = max(free_at, time.perf_counter()) + len(data) / self._bytes_per_s
                pieces.put((free_at + self._one_way_s, data))
                if not data:
                    return

        def write() -> None:
            while True:
                arrives, data = pieces.get()
                time.sleep(max(0.0, arrives - time.perf_counter()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return

        for target in (read, write):
            threading.Thread(target=target, daemon=True).start()
