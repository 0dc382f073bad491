"""Callers that misbehave: they hang up, read slowly, or die with all their calls. What leaks, and who is left unanswered?

Requests go to a service in a process of its own, 24 at once: texts, and one in five is a VERIFY session of a few frames. A third
hangs up at a random moment, a tenth reads slowly, and now and then a whole channel is closed under its calls. Memory is looked at
in ten equal parts of the run; the plateau is the median of the parts after the third, by when caches are full. The model is a
random one of four small layers: what could leak is the service's, and beside the weights of a real one it would not be seen.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil

from benchmarks._load import Requests
from benchmarks._served_cloud import ServedCloud, served_cloud
from benchmarks.line import Line, Options
from partition.extend.frame_messages import (
    Opening,
    frame_to_message,
    opening_to_message,
    reply_from_message,
)
from partition.extend.model_card import card_from_message
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule
from protos.errors import from_rpc_error
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.request_id import new_request_id
from tests.tiny_models import make_folder

AT_ONCE = 24
NUM_CHANNELS = 4
HANG_UP, SLOW, DIE = 0.33, 0.1, 0.002  # shares of requests
SESSIONS = 0.2  # share of them that is a VERIFY session
SESSION_TTL_S = 2
CALL_S = 20.0  # deadline of a call
SETTLE_S = 60.0  # within which the service has come to rest
SECTIONS = f"[engine]\nkv_mib = 16\n[limits]\nsession_ttl_s = {SESSION_TTL_S}\nmax_sessions_per_tenant = 64\n"
NUM_PARTS = 10
KEY = b"k" * 32
SETTLED_PART = 3
LEFT = (
    "tandem_rpc_in_flight",
    "tandem_sessions",
    "tandem_engine_queue_depth",
    "tandem_engine_kv_usage_ratio",
)


def run(options: Options) -> Iterator[Line]:
    """Measure 10,000 requests; 500 when quick."""
    count = 500 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        model = make_folder(Path(folder) / "tiny-llama")
        with served_cloud(str(model), sections=SECTIONS) as cloud:
            soak = Soak(cloud, seed=0, num_tokens=8)
            asyncio.run(soak.run(count))
            assert soak.ends.total() == count
            for case, value, unit in soak.lines():
                yield Line(case=f"{case} of {count} requests", ours=value, unit=unit, runs=count)


class Soak:
    """One run of misbehaving callers."""

    def __init__(self, cloud: ServedCloud, *, seed: int, num_tokens: int = 4) -> None:
        self._cloud = cloud
        self._chance = random.Random(seed)  # noqa: S311  # behaviour, not keys
        self._requests = Requests(seed, words=(1, 6), num_tokens=num_tokens)
        self._channels: list[grpc.aio.Channel] = []
        self._opening: Opening | None = None
        self.ends: Counter[str] = Counter()
        self.rss: list[int] = []
        self.left: dict[str, float] = {}

    async def run(self, count: int) -> None:
        """Send so many requests and wait until the service has come to rest."""
        self._channels = [self._channel() for _ in range(NUM_CHANNELS)]
        self._opening = await _opening(self._channels[0])
        process, part = psutil.Process(self._cloud.pid), count // NUM_PARTS
        for _ in range(NUM_PARTS):
            todo = iter(range(part))
            await asyncio.gather(*(self._caller(todo) for _ in range(AT_ONCE)))
            self.rss.append(process.memory_info().rss)
        for channel in self._channels:
            await channel.close()
        end_s = time.monotonic() + SETTLE_S
        while True:
            self.left = {name: self._cloud.metric(name) for name in LEFT}
            if not any(self.left.values()) or time.monotonic() > end_s:
                return
            await asyncio.sleep(0.2)

    def lines(self) -> list[tuple[str, float, str]]:
        """What came of it."""
        plateau = statistics.median(self.rss[SETTLED_PART:])
        worst = max(abs(size - plateau) for size in self.rss[SETTLED_PART:]) / plateau
        return [
            ("memory, farthest from the plateau", worst, "share"),
            ("calls, sessions and waiting jobs left", sum(self.left.values()), "count"),
            ("answered", float(self.ends["answered"]), "requests"),
            ("given up by their callers", float(self.ends["given up"]), "requests"),
            ("refused", float(sum(n for end, n in self.ends.items() if end.isupper())), "requests"),
        ]

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._cloud.address, self._cloud.credentials("polite"))

    async def _caller(self, todo: Iterator[int]) -> None:
        for _ in todo:
            at = self._chance.randrange(NUM_CHANNELS)
            if self._chance.random() < DIE:
                dead, self._channels[at] = self._channels[at], self._channel()
                await dead.close()
            self.ends[await self._ask(self._channels[at])] += 1

    async def _ask(self, channel: grpc.aio.Channel) -> str:
        fate = self._chance.random()
        patience = self._chance.randrange(4) if fate < HANG_UP else None
        pause_s = 0.05 if HANG_UP <= fate < HANG_UP + SLOW else 0.0
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        if self._chance.random() < SESSIONS:
            call = stub.Extend(timeout=CALL_S)
            talk = self._verify(call, patience, pause_s)
        else:
            call = stub.Generate(self._requests.next(), timeout=CALL_S)
            talk = self._read(call, patience, pause_s)
        try:
            async with asyncio.timeout(CALL_S + 10):
                return await talk
        except TimeoutError:
            # grpc.aio sometimes never wakes who reads from a channel that is closed meanwhile; with any other the call's own
            # deadline would have come first.
            assert channel not in self._channels
            return "given up"
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return "given up"  # its channel was closed under it
        finally:
            call.cancel()

    async def _read(
        self,
        call: grpc.aio.UnaryStreamCall[
            inference_pb2.GenerateRequest, inference_pb2.GenerateResponse
        ],
        patience: int | None,
        pause_s: float,
    ) -> str:
        """Read an answer, or so many events of it."""
        if patience == 0:
            return "given up"
        num_finished = num_events = 0
        try:
            async for event in call:
                num_events += 1
                num_finished += event.WhichOneof("event") == "finished"
                if patience is not None and num_events >= patience:
                    return "given up"
                await asyncio.sleep(pause_s)
        except grpc.aio.AioRpcError:
            assert num_finished == 0  # answered or refused, and never both
            raise
        assert num_finished == 1
        return "answered"

    async def _verify(
        self,
        call: grpc.aio.StreamStreamCall[inference_pb2.ExtendRequest, inference_pb2.ExtendResponse],
        patience: int | None,
        pause_s: float,
    ) -> str:
        """Exchange the frames of a short answer, or so many; who gives up does not wait for the last reply."""
        assert self._opening is not None
        prompt = [self._chance.randrange(200) for _ in range(self._chance.randint(8, 40))]
        session = DraftingSession(prompt, max_new_tokens=6, key=KEY, end_ids=frozenset())
        await call.write(
            opening_to_message(dataclasses.replace(self._opening, session=new_request_id()))
        )
        opened = await call.read()
        assert opened is not grpc.aio.EOF, await call.code()
        num_frames = 0
        while not session.is_finished:
            drafts = [self._chance.randrange(200) for _ in range(min(2, session.most_drafts))]
            await call.write(frame_to_message(session.open_frame(drafts)))
            num_frames += 1
            if patience is not None and num_frames > patience:
                return "given up"
            message = await call.read()
            if message is grpc.aio.EOF:
                raise grpc.aio.AioRpcError(
                    await call.code(), await call.initial_metadata(), await call.trailing_metadata()
                )
            reply = reply_from_message(message)
            assert reply is not None
            session.take(reply)
            await asyncio.sleep(pause_s)
        await call.done_writing()
        return "answered"


async def _opening(channel: grpc.aio.Channel) -> Opening:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    card = card_from_message(await stub.GetModel(inference_pb2.GetModelRequest(), timeout=30))
    return Opening(
        session="",
        agreement=card.agreement,
        stage_start=0,
        stage_end=card.num_layers,
        sampling=SamplingRule(),
        prefix_key=KEY,
    )
