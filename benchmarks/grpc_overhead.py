"""What the gRPC service costs: its interceptors beside a bare grpc.aio server, and the whole of it beside the engine alone.

    calls    GetModel through metrics, errors, drain, deadline, identity and quota; the peer answers the same message from a
             handler of one line. Both plaintext, so that TLS hides nothing
    answers  one engine, asked in turn in its own process without any service, over gRPC in plaintext, and over gRPC with
             mutual TLS: certificates, tokenizer, request ids and answers in the database, and the client's own work, since all
             of it shares one process and its event loop

The engine has one thread, so that the service has a core of its own on a machine of two. A random model of four small layers shows
what a token costs the service; beside a real one it is small.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from benchmarks._load import Client, Requests
from benchmarks._served_cloud import device_credentials
from benchmarks.line import Line, Options
from cloud_service.identity import Identity
from cloud_service.tenancy import pki
from partition.task import Message, Role
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.tiny_models import make_folder

MODEL = "smollm2-135m-instruct"
CALLERS = 16
NUM_TOKENS = 24
WORDS = (20, 60)
SINGLE_REQUESTS = 4  # one after the other, a round
AMPLE_S = 60.0
DEVICE = Identity(tenant="clinic", device="scanner-1")
IN_FLIGHT = 100
NUM_CALLS = 2000


def run(options: Options) -> Iterator[Line]:
    """Measure small calls, then answers of a real model and of a tiny one."""
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
    with tempfile.TemporaryDirectory() as folder:
        tiny = make_folder(Path(folder) / "tiny-llama")
        for model in (MODEL, str(tiny)):
            yield from asyncio.run(_answers(model, rounds=1 if options.quick else 3))


@dataclass(frozen=True)
class _Timing:
    """Of one answer, seconds."""

    first_s: float
    total_s: float

    @property
    def pace_s(self) -> float:
        """A token after the first."""
        return (self.total_s - self.first_s) / (NUM_TOKENS - 1)


Ask = Callable[[inference_pb2.GenerateRequest], Awaitable[_Timing]]


async def _answers(model: str, *, rounds: int) -> list[Line]:
    """One caller, then many, of the engine alone and through the service."""
    requests = Requests(0, words=WORDS, num_tokens=NUM_TOKENS)
    single: dict[str, list[_Timing]] = {}
    rates: dict[str, list[float]] = {}
    async with _ways(model) as ways:
        for at in range(rounds + 1):
            for way, ask in ways.items():
                alone = [await ask(requests.next()) for _ in range(SINGLE_REQUESTS)]
                started_s = time.perf_counter()
                await asyncio.gather(*(ask(requests.next()) for _ in range(2 * CALLERS)))
                seconds = time.perf_counter() - started_s
                if at:  # the first is for warmth
                    single.setdefault(way, []).extend(alone)
                    rates.setdefault(way, []).append(2 * CALLERS * NUM_TOKENS / seconds)
    name = Path(model).name
    lines = []
    for way in list(ways)[1:]:
        for what, value in (
            ("first token", lambda timing: 1e3 * timing.first_s),
            ("token after the first", lambda timing: 1e3 * timing.pace_s),
        ):
            ours, theirs = (
                statistics.median(value(timing) for timing in single[one]) for one in (way, ENGINE)
            )
            lines.append(
                Line(
                    case=f"{what}, 1 caller, {way}, {name}",
                    ours=ours,
                    theirs=theirs,
                    unit="ms",
                    runs=len(single[way]),
                    peer=ENGINE,
                    less_is_better=True,
                )
            )
        lines.append(
            Line(
                case=f"tokens, {2 * CALLERS} callers, {way}, {name}",
                ours=statistics.median(rates[way]),
                theirs=statistics.median(rates[ENGINE]),
                unit="tokens/s",
                runs=rounds,
                peer=ENGINE,
            )
        )
    return lines


ENGINE = "the engine without a service"


@asynccontextmanager
async def _ways(model: str) -> AsyncIterator[dict[str, Ask]]:
    """The ways to one engine."""
    from cloud_service.backends.transformers_backend import make_transformers_backend
    from cloud_service.config import load_config
    from cloud_service.metrics import Metrics
    from cloud_service.server import running_server

    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = pki.create_authority(root)
        pki.issue_device(root, DEVICE)
        flags: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "health_listen": None,
            "metrics_listen": None,
            "model": {"name": model, "threads": 1},
            "tenants": {
                "admitted": [DEVICE.tenant],
                "default_quota": {"requests_per_s": 0, "concurrent_calls": 0},
            },
        }
        tls = {
            "over gRPC in plaintext": {"insecure_loopback": True},
            "over gRPC with mutual TLS": {
                "certificate": str(files.server.certificate),
                "key": str(files.server.key),
                "client_authority": str(files.authority.certificate),
            },
        }
        backend = await make_transformers_backend(
            load_config(None, flags={**flags, "tls": {"insecure_loopback": True}}, environment={}),
            Metrics(),
        )
        stack.push_async_callback(backend.close)

        async def same_backend(config: object, metrics: object) -> Any:
            return _Lent(backend)

        ways: dict[str, Ask] = {ENGINE: lambda request: _ask_engine(backend, request)}
        for at, (way, section) in enumerate(tls.items()):
            state = {"directory": str(root / f"state-{at}")}
            config = load_config(
                None, flags={**flags, "tls": section, "state": state}, environment={}
            )
            _, endpoints = await stack.enter_async_context(
                running_server(config, make_backend=same_backend)
            )
            client = Client(
                endpoints.address,
                None if "insecure_loopback" in section else device_credentials(root, DEVICE),
                DEVICE.tenant,
            )
            stack.push_async_callback(client.close)
            ways[way] = _asking(client)
        yield ways


def _asking(client: Client) -> Ask:
    async def ask(request: inference_pb2.GenerateRequest) -> _Timing:
        outcome = await client.ask(request, deadline_s=AMPLE_S)
        assert outcome.error is None, outcome.error
        assert outcome.first_s is not None
        return _Timing(outcome.first_s, outcome.total_s)

    return ask


async def _ask_engine(backend: Any, request: inference_pb2.GenerateRequest) -> _Timing:
    """As the service asks it."""
    from cloud_service.generation import Interrupt, Prompt, TextDelta
    from partition.generation.sampling import SamplingRule

    prompt = Prompt(
        identity=DEVICE,
        messages=tuple(Message(role=Role.USER, text=one.text) for one in request.messages),
        sampling=SamplingRule(),
        max_output_tokens=NUM_TOKENS,
        deadline_s=time.monotonic() + AMPLE_S,
        interrupt=Interrupt(),
    )
    started_s, first_s = time.perf_counter(), 0.0
    async for event in backend.generate(prompt):
        if isinstance(event, TextDelta) and event.text and not first_s:
            first_s = time.perf_counter() - started_s
    return _Timing(first_s, time.perf_counter() - started_s)


class _Lent:
    """A backend that several services share: none of them ends it."""

    def __init__(self, backend: Any) -> None:
        self.card = backend.card
        self.generate = backend.generate
        self.make_session = backend.make_session

    async def close(self) -> None:
        return


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
        from partition.extend.model_card import ModelCard

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
