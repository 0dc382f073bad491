"""The shipped Ray application on a real cluster: the engine's load brings a second replica, kill -9 of one loses nothing, and one
that is taken away ends in good order.

Everything goes to one address. Each of two devices holds one connection, so each replica has one; when a replica dies, its
device connects again and the other replica goes on from the shared state.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import sqlalchemy as sa

from cloud_service.identity import Identity
from cloud_service.storage.envelope import load_master_key
from cloud_service.storage.state_store import OUTCOMES, USAGE_DAYS
from partition.text.tokenizer import Tokenizer
from protos.inference.v1 import inference_pb2
from tests.cloud_harness import OTHER, SCANNER, Client, Site, ask
from tests.integration.test_cloud_sessions import cloud_text, opening
from tests.integration.test_conversations_survive import (
    BEFORE,
    RULE,
    Conversation,
    persistently,
)
from tests.postgres_server import postgres_server
from tests.ray_cluster import RayCluster, ray_cluster
from tests.tiny_models import make_folder

NUM_PER_DEVICE = 8
DEVICES = (SCANNER, OTHER)
FLOOD = 24  # requests at once, at an engine that runs two
PATIENCE_S = 240.0  # a replica imports PyTorch, on a machine that may have other work


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "tiny-llama")


@pytest.fixture
def site(tmp_path: Path, model: Path) -> Iterator[Site]:
    made = Site.make(tmp_path / "site", model)
    load_master_key(made.root / "state/master.key")
    with postgres_server() as url:
        (made.root / "cloud.toml").write_text(
            "log_format = 'json'\nlisten = '127.0.0.1:7443'\nmetrics_listen = '127.0.0.1:9464'\n"
            "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
            "[tenants]\nadmitted = ['clinic', 'rival']\n[drain]\nbalancer_s = 0.0\nfinish_s = 1.0\n"
            "[engine]\nkv_mib = 64\nmax_sequences = 2\n"
            f"[model]\nname = '{model}'\ndtype = 'float32'\nthreads = 1\n"
            f"[state]\ndirectory = 'state'\nlease_s = 2\nurl = '{url}'\n"
        )
        yield made


@contextlib.asynccontextmanager
async def connected(cluster: RayCluster, site: Site, identity: Identity) -> AsyncIterator[Client]:
    """One device with a connection of its own, as devices have."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 200)]
    credentials = site.credentials(identity)
    async with grpc.aio.secure_channel(cluster.address, credentials, options=options) as channel:
        yield Client(channel)


async def second_replica(cluster: RayCluster, client: Client) -> float:
    """Ask more than one engine can do until Ray Serve has started another; returns how long that took, seconds."""
    began_s = time.monotonic()

    async def keep_asking() -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await client.generate(ask(max_output_tokens=64))

    flood = [asyncio.create_task(keep_asking()) for _ in range(FLOOD)]
    try:
        while len(await asyncio.to_thread(cluster.replicas)) < 2:
            assert time.monotonic() < began_s + PATIENCE_S, "load brings no second replica"
            await asyncio.sleep(0.5)
    finally:
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    return time.monotonic() - began_s


def served_by(cluster: RayCluster) -> dict[int, int]:
    """Connections from the balancer that each replica's process has on its port, by process id."""
    found = {}
    for replica in cluster.replicas():
        port = int(replica["address"].rpartition(":")[2])
        process = psutil.Process(replica["pid"])
        found[replica["pid"]] = sum(
            one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
            for one in process.net_connections(kind="tcp")
        )
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_replicas_come_with_load_and_conversations_outlive_them(
    site: Site, model: Path
) -> None:
    with ray_cluster(site.root / "cloud.toml", least=1, most=2) as cluster:
        async with connected(cluster, site, SCANNER) as client:
            assert len(cluster.replicas()) == 1
            await second_replica(cluster, client)
        await outlive(cluster, site, model)


async def outlive(cluster: RayCluster, site: Site, model: Path) -> None:
    talks = {
        identity: [Conversation.begin(number, model) for number in range(NUM_PER_DEVICE)]
        for identity in DEVICES
    }
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            identity: await stack.enter_async_context(connected(cluster, site, identity))
            for identity in DEVICES
        }
        expected = await cloud_text(clients[SCANNER], RULE)
        before = await answered_before(clients, talks)
        opened = {
            identity: [
                await opening(client, f"c{number}", RULE) for number in range(NUM_PER_DEVICE)
            ]
            for identity, client in clients.items()
        }
        pairs = [
            (clients[identity], one, words)
            for identity in DEVICES
            for one, words in zip(talks[identity], opened[identity], strict=True)
        ]
        await asyncio.gather(
            *(one.talk(client, words, until=BEFORE) for client, one, words in pairs)
        )
        await asyncio.sleep(0.6)  # what was said until now is saved
        connections = served_by(cluster)
        assert sorted(connections.values()) == [
            1,
            1,
        ]  # one each, and all that a device says goes there
        victim = next(iter(connections))
        running = [
            asyncio.create_task(work)
            for client, one, words in pairs
            for work in (one.talk(client, words, until=10_000), one.ask_and_report(client))
        ]
        await asyncio.sleep(0.1)
        os.kill(victim, signal.SIGKILL)
        results = await asyncio.gather(*running, return_exceptions=True)
        broken = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
        assert broken
        assert len(broken) < len(results)  # the other device noticed nothing
        known = await asyncio.gather(
            *(
                persistently(lambda c=client, o=one, w=words: o.talk(c, w, until=10_000))
                for client, one, words in pairs
            )
        )
        await asyncio.gather(
            *(persistently(lambda c=client, o=one: o.ask_and_report(c)) for client, one, _ in pairs)
        )
        # Each question was billed once, those too that were asked again after the kill.
        costs = sum(one.answers[-1].usage.cost_micro_usd for one in talks[OTHER])
        assert billed(site, OTHER) == costs
        for identity, client in clients.items():
            for question, answer in before[identity]:
                assert await next_turn(client, question, answer)
        # Ray Serve replaces what was killed, and the front takes it in.
        deadline_s = time.monotonic() + PATIENCE_S
        while victim in served_by_pid(cluster) or len(served_by_pid(cluster)) < 2:
            assert time.monotonic() < deadline_s, "the killed replica was not replaced"
            await asyncio.sleep(0.5)
        await drained(cluster, clients)
    check_nothing_lost(site, model, talks, expected, known)


async def drained(cluster: RayCluster, clients: dict[Identity, Client]) -> None:
    """One replica is taken away while both devices ask: every question gets its answer, asked again where it was refused."""
    before = served_by_pid(cluster)
    done = asyncio.Event()
    answers: Counter[Identity] = Counter()

    async def keep_asking(identity: Identity, client: Client) -> None:
        while not done.is_set():
            question = ask(max_output_tokens=8)
            events = await persistently(lambda asked=question: client.generate(asked))
            assert events[-1].HasField("finished") or events[-1].HasField("draining")
            answers[identity] += 1

    asking = [asyncio.create_task(keep_asking(*pair)) for pair in clients.items()]
    await asyncio.to_thread(cluster.leave_one)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(left := [pid for pid in before if psutil.pid_exists(pid)]) > 1:
        assert time.monotonic() < deadline_s, "no replica was taken away"
        await asyncio.sleep(0.2)
    answers.clear()
    await asyncio.sleep(1.0)
    done.set()
    await asyncio.gather(*asking)
    assert set(answers) == set(DEVICES)  # both are answered by the one that is left
    assert served_by(cluster) == {left[0]: len(DEVICES)}
    while '"event": "drained"' not in cluster.log.read_text():  # it was not simply killed
        assert time.monotonic() < deadline_s, "the replica that went did not drain"
        await asyncio.sleep(0.2)


async def answered_before(
    clients: dict[Identity, Client], talks: dict[Identity, list[Conversation]]
) -> dict[Identity, list[tuple[inference_pb2.GenerateRequest, inference_pb2.Finished]]]:
    """Half of the questions, answered and reported before the kill."""
    half = NUM_PER_DEVICE // 2
    for identity, client in clients.items():
        await asyncio.gather(*(one.ask_and_report(client) for one in talks[identity][:half]))
    return {
        identity: [(one.question, one.answers[0]) for one in talks[identity][:half]]
        for identity in clients
    }


async def next_turn(
    client: Client, question: inference_pb2.GenerateRequest, answer: inference_pb2.Finished
) -> str:
    """The question again, which costs nothing and gives the stored answer, and then the next turn on top of it."""
    again = (await client.generate(question))[-1].finished
    assert again.SerializeToString() == answer.SerializeToString()
    reply = inference_pb2.Message(role=inference_pb2.ROLE_ASSISTANT, text=answer.text)
    more = inference_pb2.Message(role=inference_pb2.ROLE_USER, text="And the lungs?")
    turn = ask(max_output_tokens=4)
    del turn.messages[:]
    turn.messages.extend([*question.messages, reply, more])
    events = await client.generate(turn)
    return "answered" if events[-1].HasField("finished") else ""


def served_by_pid(cluster: RayCluster) -> set[int]:
    return {replica["pid"] for replica in cluster.replicas()}


def check_nothing_lost(
    site: Site,
    model: Path,
    talks: dict[Identity, list[Conversation]],
    expected: str,
    known: list[int],
) -> None:
    decode = Tokenizer.from_folder(model).decode
    everyone = [one for talk in talks.values() for one in talk]
    assert Counter(decode(one.session.answer) for one in everyone) == {expected: len(everyone)}
    assert min(known) >= BEFORE  # computed again from the saved ids, not sent again
    for one in everyone:  # a request answered before the kill and after it has one answer
        assert len({answer.SerializeToString() for answer in one.answers}) == 1
    engine = sa.create_engine(state_url(site))
    with engine.begin() as connection:
        num_outcomes = connection.scalar(sa.select(sa.func.count()).select_from(OUTCOMES))
    engine.dispose()
    assert num_outcomes == len(everyone)


def state_url(site: Site) -> str:
    return (site.root / "cloud.toml").read_text().rpartition("url = '")[2].partition("'")[0]


def billed(site: Site, identity: Identity) -> int:
    """What a device's tenant was billed so far, millionths of a dollar."""
    engine = sa.create_engine(state_url(site))
    with engine.begin() as connection:
        found = connection.scalar(
            sa.select(sa.func.sum(USAGE_DAYS.c.micro_usd)).where(
                USAGE_DAYS.c.tenant == identity.tenant
            )
        )
    engine.dispose()
    return int(found or 0)
