"""What the interceptors cost: small calls to the cloud service and to a bare grpc.aio server, in turn, on loopback.

Ours is GetModel through certificates' place-holder, metrics, errors, drain, deadline, identity and quota; the peer answers
the same message from a handler of one line. Both are plaintext, so that TLS hides nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from benchmarks.line import Line, Options
from protos.inference.v1 import inference_pb2, inference_pb2_grpc

IN_FLIGHT = 100
NUM_CALLS = 2000


def run(options: Options) -> Iterator[Line]:
    """Measure calls a second, 100 in flight."""
    runs = 3 if options.quick else 9
    pairs = asyncio.run(_measure(runs))
    yield Line(
        case=f"unary calls, {IN_FLIGHT} in flight, client and server in one process",
        ours=statistics.median(pair[0] for pair in pairs),
        theirs=statistics.median(pair[1] for pair in pairs),
        unit="calls/s",
        runs=runs,
        peer=f"grpc.aio {version('grpcio')}",
    )


async def _measure(runs: int) -> list[tuple[float, float]]:
    from cloud_service.config import load_config
    from cloud_service.server import running_server

    with tempfile.TemporaryDirectory() as folder:
        flags: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "health_listen": None,
            "metrics_listen": None,
            "tls": {"insecure_loopback": True},
            "state": {"directory": str(Path(folder) / "state")},
            "tenants": {"default_quota": {"requests_per_s": 1e9, "concurrent_calls": 0}},
        }
        config = load_config(None, flags=flags, environment={})

        async def make_backend(config: object, metrics: object) -> _NoModel:
            return _NoModel()

        bare = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(_Bare(), bare)
        port = bare.add_insecure_port("127.0.0.1:0")
        await bare.start()
        async with running_server(config, make_backend=make_backend) as (_, endpoints):
            pairs = []
            for at in range(runs + 1):
                pair = (await _rate(endpoints.address), await _rate(f"127.0.0.1:{port}"))
                if at:  # the first is for warmth
                    pairs.append(pair)
        await bare.stop(None)
    return pairs


async def _rate(target: str) -> float:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.GetModelRequest()

        async def worker() -> None:
            for _ in range(NUM_CALLS // IN_FLIGHT):
                await stub.GetModel(request, timeout=30)

        started_s = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return NUM_CALLS / (time.perf_counter() - started_s)


class _Bare(inference_pb2_grpc.InferenceServiceServicer):
    async def GetModel(  # noqa: N802  # the name of the RPC
        self, request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        return inference_pb2.GetModelResponse(model="none", fingerprint="0" * 64)


class _NoModel:
    """A backend that has a card and nothing to say."""

    def __init__(self) -> None:
        from cloud_service.model_card import ModelCard

        self.card = ModelCard(
            name="none",
            fingerprint="0" * 64,
            tokenizer_sha256="",
            chat_template_sha256="",
            vocabulary_size=0,
            num_layers=0,
            hidden_size=0,
            context_tokens=0,
        )

    async def generate(self, prompt: object) -> AsyncGenerator[Any, None]:
        return
        yield

    def make_session(self, identity: object, opening: object, ids: object = ()) -> Any:
        raise AssertionError("nobody opens a session here")

    async def close(self) -> None:
        return
