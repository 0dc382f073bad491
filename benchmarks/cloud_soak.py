"""Callers that misbehave: they hang up, read slowly, or die with all their calls. What leaks, and who is left unanswered?

Requests go to a service in a process of its own, 24 at once. A third hangs up at a random moment, a tenth reads slowly, and now
and then a whole channel is closed under its calls. Memory is looked at in ten equal parts of the run; the plateau is the
median of the parts after the third, by when caches are full.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Iterator

import grpc
import psutil

from benchmarks._load import Requests
from benchmarks._served_cloud import ServedCloud, served_cloud
from benchmarks.line import Line, Options
from protos.errors import from_rpc_error
from protos.inference.v1 import inference_pb2_grpc

AT_ONCE = 24
NUM_CHANNELS = 4
HANG_UP, SLOW, DIE = 0.33, 0.1, 0.002  # shares of requests
NUM_PARTS = 10
SETTLED_PART = 3
MODEL = "smollm2-135m-instruct"


def run(options: Options) -> Iterator[Line]:
    """Measure 10,000 requests; 500 when quick."""
    count = 500 if options.quick else 10_000
    with served_cloud(MODEL, sections="[engine]\nkv_mib = 128\n") as cloud:
        soak = Soak(cloud, seed=0)
        asyncio.run(soak.run(count))
        for case, value, unit in soak.lines():
            yield Line(
                case=f"{case} of {count} requests {MODEL}", ours=value, unit=unit, runs=count
            )


class Soak:
    """One run of misbehaving callers."""

    def __init__(self, cloud: ServedCloud, *, seed: int, num_tokens: int = 4) -> None:
        self._cloud = cloud
        self._chance = random.Random(seed)  # noqa: S311  # behaviour, not keys
        self._requests = Requests(seed, words=(1, 6), num_tokens=num_tokens)
        self._channels: list[grpc.aio.Channel] = []
        self.ends: Counter[str] = Counter()
        self.rss: list[int] = []
        self.left: dict[str, float] = {}

    async def run(self, count: int) -> None:
        """Send so many requests and wait until the service has come to rest."""
        self._channels = [self._channel() for _ in range(NUM_CHANNELS)]
        process, part = psutil.Process(self._cloud.pid), count // NUM_PARTS
        for _ in range(NUM_PARTS):
            todo = iter(range(part))
            await asyncio.gather(*(self._caller(todo) for _ in range(AT_ONCE)))
            self.rss.append(process.memory_info().rss)
        for channel in self._channels:
            await channel.close()
        await asyncio.sleep(2.0)
        for name in ("tandem_rpc_in_flight", "tandem_sessions", "tandem_engine_queue_depth"):
            self.left[name] = self._cloud.metric(name)
        self.left["kv"] = self._cloud.metric("tandem_engine_kv_usage_ratio")

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
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
            self._requests.next(), timeout=60
        )
        num_finished = num_events = 0
        try:
            if patience == 0:
                return "given up"
            async for event in call:
                num_events += 1
                num_finished += event.WhichOneof("event") == "finished"
                if patience is not None and num_events >= patience:
                    return "given up"
                await asyncio.sleep(pause_s)
        except grpc.aio.AioRpcError as error:
            assert num_finished == 0  # answered or refused, and never both
            return from_rpc_error(error).reason
        except (asyncio.CancelledError, grpc.aio.UsageError):
            return "given up"  # its channel was closed under it
        finally:
            call.cancel()
        assert num_finished == 1
        return "answered"
