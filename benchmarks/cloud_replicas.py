"""Two replicas on a Ray cluster of this machine behind one address: what the second adds, what the front costs, what a kill costs.

    throughput   16 callers on two connections: at one replica directly, then at both through the front
    front        an empty call through the front against one to a replica directly, in turn
    recovery     short questions on two connections while one replica gets SIGKILL: the longest time without an answer on the
                 connection that was cut, and until Ray Serve's new replica gets connections

Each replica has one thread for its model. On two cores the callers, the front and Ray itself take their share of both, so the
second replica adds less here than on a machine of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from benchmarks._load import Client, Requests, closed_loop
from benchmarks._served_cloud import device_credentials
from benchmarks.line import Line, Options
from cloud_service.identity import Identity
from cloud_service.storage.envelope import load_master_key
from cloud_service.tenancy import pki
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.ray_cluster import RayCluster, ray_cluster

MODEL = "smollm2-135m-instruct"
DEVICES = tuple(Identity(tenant=name, device="device-1") for name in ("north", "south"))
CALLERS = 8  # on each connection
NUM_TOKENS = 24
DEADLINE_S = 60.0
PAUSE_S = 0.02  # between the questions of the recovery
AFTER_S = 6.0  # asked on after the kill
REPLACED_WITHIN_S = 240.0


def run(options: Options) -> Iterator[Line]:
    """Measure the three, in one cluster."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pki.create_authority(root)
        for device in DEVICES:
            pki.issue_device(root, device)
        load_master_key(root / "state/master.key")
        (root / "cloud.toml").write_text(
            "listen = '127.0.0.1:7443'\nmetrics_listen = '127.0.0.1:9464'\n"
            "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
            f"[model]\nname = '{MODEL}'\nthreads = 1\n[engine]\nkv_mib = 256\n"
            f"[tenants]\nadmitted = {[device.tenant for device in DEVICES]}\n"
            "[tenants.default_quota]\nrequests_per_s = 0\nconcurrent_calls = 0\n"
            f"[state]\ndirectory = 'state'\nurl = 'sqlite:///{root}/state/state.sqlite3'\n"
        )
        seconds = 10.0 if options.quick else 20.0
        with ray_cluster(root / "cloud.toml") as cluster:
            yield from asyncio.run(_measure(cluster, root, seconds))


async def _measure(cluster: RayCluster, root: Path, seconds: float) -> list[Line]:
    direct = cluster.replicas()[0]["address"]
    for replica in cluster.replicas():  # both are warm
        await _tokens_per_s(replica["address"], root, seconds=2.0)
    one = await _tokens_per_s(direct, root, seconds=seconds)
    both = await _tokens_per_s(cluster.address, root, seconds=seconds)
    lines = [
        Line(
            case=f"throughput 2 replicas {MODEL}",
            ours=both[0],
            theirs=one[0],
            peer="one of them alone",
            unit="tokens/s",
            runs=one[1] + both[1],
        )
    ]
    through_ms, direct_ms = await _empty_calls_ms(cluster.address, direct, root)
    lines.append(
        Line(
            case="front, empty call",
            ours=through_ms,
            theirs=direct_ms,
            peer="a replica asked directly",
            unit="ms",
            runs=400,
            less_is_better=True,
        )
    )
    gap_s, replaced_s, num_failed = await _kill_one(cluster, root)
    for case, value, unit in (
        ("recovery after kill -9, longest wait for an answer", gap_s, "s"),
        ("recovery after kill -9, calls that failed and were asked again", num_failed, "calls"),
        ("recovery after kill -9, until the new replica serves", replaced_s, "s"),
    ):
        lines.append(Line(case=case, ours=value, unit=unit, runs=1, less_is_better=True))
    return lines


async def _tokens_per_s(address: str, root: Path, *, seconds: float) -> tuple[float, int]:
    clients = [
        Client(address, device_credentials(root, device), device.tenant) for device in DEVICES
    ]
    began_s = time.perf_counter()
    outcomes = await asyncio.gather(
        *(
            closed_loop(
                client,
                Requests(number, words=(20, 60), num_tokens=NUM_TOKENS),
                clients=CALLERS,
                seconds=seconds,
                deadline_s=DEADLINE_S,
            )
            for number, client in enumerate(clients)
        )
    )
    took_s = time.perf_counter() - began_s
    for client in clients:
        await client.close()
    answered = [one for some in outcomes for one in some if one.error is None]
    return sum(one.num_tokens for one in answered) / took_s, len(answered)


async def _empty_calls_ms(through: str, direct: str, root: Path) -> tuple[float, float]:
    times: dict[str, list[float]] = {through: [], direct: []}
    async with (
        _stub(through, root, DEVICES[0]) as front,
        _stub(direct, root, DEVICES[0]) as replica,
    ):
        for _ in range(200):
            for address, stub in ((through, front), (direct, replica)):
                began_s = time.perf_counter()
                await stub.GetModel(inference_pb2.GetModelRequest(), timeout=10)
                times[address].append(1000 * (time.perf_counter() - began_s))
    return statistics.median(times[through]), statistics.median(times[direct])


async def _kill_one(cluster: RayCluster, root: Path) -> tuple[float, float, float]:
    answered: dict[str, list[float]] = {device.tenant: [] for device in DEVICES}
    num_failed = 0
    done = asyncio.Event()

    async def ask(device: Identity) -> None:
        nonlocal num_failed
        requests = Requests(7, words=(4, 8), num_tokens=2)
        async with _stub(cluster.address, root, device) as stub:
            while not done.is_set():
                call = stub.Generate(requests.next(), timeout=10)
                try:
                    async for _ in call:
                        pass
                    answered[device.tenant].append(time.perf_counter())
                except grpc.aio.AioRpcError:
                    num_failed += 1
                finally:
                    call.cancel()
                await asyncio.sleep(PAUSE_S)

    asking = [asyncio.create_task(ask(device)) for device in DEVICES]
    await asyncio.sleep(2.0)
    victim = (await asyncio.to_thread(cluster.replicas))[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    killed_s = time.perf_counter()
    await asyncio.sleep(AFTER_S)
    done.set()
    await asyncio.gather(*asking)
    gaps = []
    for moments in answered.values():
        near = [moment for moment in moments if moment > killed_s - 1.0]
        gaps.append(max(later - earlier for earlier, later in itertools.pairwise(near)))
    while True:
        replicas = [one["pid"] for one in await asyncio.to_thread(cluster.replicas)]
        if victim not in replicas and len(replicas) == len(DEVICES):
            return max(gaps), time.perf_counter() - killed_s, float(num_failed)
        if time.perf_counter() > killed_s + REPLACED_WITHIN_S:
            raise TimeoutError("Ray Serve does not replace the replica; see its logs")
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _stub(
    address: str, root: Path, device: Identity
) -> AsyncIterator[inference_pb2_grpc.InferenceServiceStub]:
    """A connection of its own, as a device has: gRPC would share one between equal channels."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 200)]
    credentials = device_credentials(root, device)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)
