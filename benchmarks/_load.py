"""Clients that load a cloud service and write down what became of every request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from protos.errors import WireError, from_rpc_error
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.request_id import new_request_id

_TEXT = (
    "heart size lungs are clear no pleural effusion pneumothorax acute osseous abnormality mild "
    "cardiomegaly stable left lower lobe opacity may represent atelectasis"
)
WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request; seconds from its sending."""

    tenant: str
    sent_s: float  # on the clock of time.perf_counter
    first_s: float | None  # None: no text came
    total_s: float
    num_tokens: int
    error: WireError | None = field(repr=False)

    @property
    def pace_s(self) -> float | None:
        """Seconds a token after the first."""
        if self.first_s is None or self.num_tokens < 2:
            return None
        return (self.total_s - self.first_s) / (self.num_tokens - 1)


class Requests:
    """Makes requests of mixed length, from a seed."""

    def __init__(self, seed: int, *, words: tuple[int, int], num_tokens: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  # texts, not keys
        self._words = words
        self._num_tokens = num_tokens

    def next(self) -> inference_pb2.GenerateRequest:
        """Another one."""
        text = " ".join(self._chance.choices(WORDS, k=self._chance.randint(*self._words)))
        return inference_pb2.GenerateRequest(
            request_id=new_request_id(),
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, text=text)],
            max_output_tokens=self._num_tokens,
        )

    def pause_s(self, mean_s: float) -> float:
        """How long a caller thinks before its next one."""
        return self._chance.expovariate(1 / mean_s)


class Client:
    """The channel of one tenant."""

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None, tenant: str
    ) -> None:
        """Open it; without credentials in plaintext."""
        self.tenant = tenant
        self._channel = (
            grpc.aio.insecure_channel(address)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials)
        )
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def ask(self, request: inference_pb2.GenerateRequest, *, deadline_s: float) -> Outcome:
        """Send one request and read its answer to the end."""
        sent_s = time.perf_counter()
        first_s, num_tokens, error = None, 0, None
        call = self._stub.Generate(request, timeout=deadline_s)
        try:
            async for event in call:
                if event.HasField("delta") and first_s is None:
                    first_s = time.perf_counter() - sent_s
                if event.HasField("finished"):
                    num_tokens = event.finished.usage.output_tokens
        except grpc.aio.AioRpcError as failure:
            error = from_rpc_error(failure)
        finally:
            call.cancel()
        return Outcome(
            tenant=self.tenant,
            sent_s=sent_s,
            first_s=first_s,
            total_s=time.perf_counter() - sent_s,
            num_tokens=num_tokens,
            error=error,
        )

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def closed_loop(
    client: Client,
    requests: Requests,
    *,
    clients: int,
    seconds: float,
    deadline_s: float,
    pause_s: float = 0.0,
) -> list[Outcome]:
    """So many callers, each of whom asks again when answered, after a pause of random length with this mean."""
    until_s = time.perf_counter() + seconds
    outcomes: list[Outcome] = []

    async def caller() -> None:
        while time.perf_counter() < until_s:
            outcome = await client.ask(requests.next(), deadline_s=deadline_s)
            outcomes.append(outcome)
            if outcome.error is not None:
                await asyncio.sleep(outcome.error.retry_after_s or 0.05)
            elif pause_s:
                await asyncio.sleep(requests.pause_s(pause_s))

    await asyncio.gather(*(caller() for _ in range(clients)))
    return outcomes


async def open_loop(
    client: Client,
    requests: Requests,
    *,
    per_s: float,
    seconds: float,
    deadline_s: float,
    seed: int,
) -> list[Outcome]:
    """Requests that come at random, whatever became of those before; nobody asks again."""
    chance = random.Random(seed)  # noqa: S311  # arrivals, not keys
    started_s = time.perf_counter()
    due_s, tasks = 0.0, []
    while (due_s := due_s + chance.expovariate(per_s)) < seconds:
        await asyncio.sleep(max(0.0, started_s + due_s - time.perf_counter()))
        tasks.append(asyncio.create_task(client.ask(requests.next(), deadline_s=deadline_s)))
    return list(await asyncio.gather(*tasks))


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share ``q`` lies: the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
