"""A cloud on loopback that keeps every byte sent to it, and fails in the ways clouds fail."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from protos.inference.v1 import inference_pb2, inference_pb2_grpc

_FAULTS = ("none", "none", "none", "unavailable", "exhausted", "cut", "invents")


class RecordingCloud(inference_pb2_grpc.InferenceServiceServicer):
    """A real gRPC server behind a socket that records. Each request meets one fault, drawn from a seed."""

    def __init__(self, *, seed: int, num_threads: int = 8) -> None:
        self.refuses = False  # connections, as when there is no network
        self.num_requests = 0
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._lock = threading.Lock()
        self._recorded = bytearray()
        self._pool = ThreadPoolExecutor(num_threads)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False

    def __enter__(self) -> Self:
        self._server = grpc.server(self._pool, options=(("grpc.so_reuseport", 0),))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._server.stop(0).wait()
        self._pool.shutdown()

    @property
    def target(self) -> str:
        """Address of the recording socket."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def take(self) -> bytes:
        """What has come since the last call: raw bytes of the connections, and headers as the server decoded them."""
        with self._lock:
            recorded = bytes(self._recorded)
            self._recorded.clear()
        return recorded

    def cut(self) -> None:
        """Break every connection at once."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for ends in pairs:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def Generate(  # noqa: N802 - gRPC's name
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> Iterator[inference_pb2.GenerateResponse]:
        """Answer with surrogates of the request, or fail."""
        headers = repr(context.invocation_metadata()).encode()
        with self._lock:
            self.num_requests += 1
            self._recorded += headers
            fault = self._rng.choice(_FAULTS)
        if fault == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        if fault == "exhausted":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        text = "No acute finding. [PERSON_1] may go home."
        if fault == "invents":
            text = "[PERSON_77] and [PERSON_1b] were told, see [ID_9]."
        yield inference_pb2.GenerateResponse(
            started=inference_pb2.Started(model="recording", fingerprint="r-1")
        )
        for index in range(0, len(text), 7):
            piece = inference_pb2.Delta(text=text[index : index + 7], num_tokens=1)
            yield inference_pb2.GenerateResponse(delta=piece)
            if fault == "cut" and index > 7:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the stream broke")
        yield inference_pb2.GenerateResponse(
            finished=inference_pb2.Finished(
                reason=inference_pb2.FINISH_REASON_STOP,
                text=text,
                usage=inference_pb2.Usage(input_tokens=7, output_tokens=3, cost_micro_usd=1),
            )
        )

    def GetModel(  # noqa: N802 - gRPC's name
        self, request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        """Describe a model."""
        return inference_pb2.GetModelResponse(model="recording", fingerprint="r-1", num_layers=4)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                if self.refuses:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                continue
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if upwards:
                    with self._lock:
                        self._recorded += piece
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
