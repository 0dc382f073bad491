"""A gRPC server of Extend over the simulated cloud halves: real frames, real streams, a loopback port."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self

import grpc

from partition.extend.frame_messages import (
    Opening,
    frame_from_message,
    opening_from_message,
    reply_to_message,
)
from partition.extend.frames import Agreement, Extend, Reply
from protos.inference.v1 import inference_pb2, inference_pb2_grpc


class Half(Protocol):
    """The cloud's part of a session."""

    def handle(self, frame: Extend) -> Reply:
        """Answer one frame."""


class FrameServer(inference_pb2_grpc.InferenceServiceServicer):
    """Serves one half; ``break_after`` frames end the stream as a dying server does."""

    def __init__(self, half: Half, agreement: Agreement, *, port: int = 0) -> None:
        self.half, self.agreement = half, agreement
        self.openings: list[Opening] = []
        self.break_after: int | None = None
        self.refuse_with: tuple[grpc.StatusCode, str] | None = None
        self.refuse_later: tuple[grpc.StatusCode, str] | None = None  # once a stream was broken
        self._server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Extend(  # noqa: N802
        self, request_iterator: Iterator[inference_pb2.ExtendRequest], context: Any
    ) -> Iterator[inference_pb2.ExtendResponse]:
        if self.refuse_with is not None:
            context.abort(*self.refuse_with)
        opening = opening_from_message(next(request_iterator))
        self.openings.append(opening)
        if hasattr(self.half, "opened"):
            self.half.opened(opening.prefix_key)
        field = self.agreement.first_difference(opening.agreement)
        if field is not None:
            yield inference_pb2.ExtendResponse(mismatch=inference_pb2.Mismatch(field=field))
            return
        yield inference_pb2.ExtendResponse(
            opened=inference_pb2.ExtendOpened(session=opening.session)
        )
        for request in request_iterator:
            if self.break_after is not None:
                self.break_after -= 1
                if self.break_after < 0:
                    self.break_after, self.refuse_with = None, self.refuse_later
                    context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            yield reply_to_message(self.half.handle(frame_from_message(request)))

    def GetModel(  # noqa: N802
        self, request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        return inference_pb2.GetModelResponse(
            model="simulated",
            fingerprint=self.agreement.fingerprint,
            tokenizer_sha256=self.agreement.tokenizer_sha256,
            chat_template_sha256=self.agreement.chat_template_sha256,
            vocabulary_size=self.agreement.vocabulary_size,
            num_layers=4,
            hidden_size=32,
            context_tokens=4096,
        )

    def stop(self) -> None:
        self._server.stop(grace=0).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
