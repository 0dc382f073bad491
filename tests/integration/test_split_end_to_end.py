"""SPLIT whole: the first layers on the device, the rest in the real cloud service over mutual TLS, through the agent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_service.tenancy.pki import CertificateFolder
from edge_agent import EdgeAgent, Route
from edge_agent.cloud.client import CloudClient, TlsFiles
from edge_agent.cloud.cloud import CloudAnswer, GenerateOptions, WireIds
from edge_agent.config import EdgeConfig, load_config
from edge_agent.errors import ConfigError
from edge_agent.extend.first_layers import FirstLayers
from edge_agent.extend.joint_setup import make_joint_route
from edge_agent.extend.split_answer import SplitAnswers
from edge_agent.trust import Trust
from partition.extend.activations import Codec
from partition.fingerprint import Setup
from partition.stages.stage_range import Precision
from partition.task import Policy, Task, TaskKind
from protos.request_id import new_request_id
from tests.cloud_harness import SCANNER, CloudProcess, Site, cloud_process
from tests.simulators import TcpProxy, make_anonymized
from tests.tiny_models import make_folder
from tests.unit.edge_agent.test_agent import Bench

CHAT = Task(name="chat", kind=TaskKind.GENERATE, policy=Policy(local_threshold=0.9))
OPEN = replace(CHAT, name="open", policy=replace(CHAT.policy, allow_split=True))
SETUP = Setup(
    model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
)
OPTIONS = {
    "greedy": GenerateOptions(max_output_tokens=24),
    "seeded": GenerateOptions(max_output_tokens=24, temperature=1.0, top_k=20, top_p=0.9, seed=11),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("model") / "large"
    model = make_folder(folder, architecture="qwen2", seed=3, head_dim=16)
    return Site.make(tmp_path_factory.mktemp("site"), model)


@pytest.fixture(scope="module")
def cloud(site: Site) -> Iterator[CloudProcess]:
    with cloud_process(site) as process:
        yield process


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def config_of(site: Site, cache: Path, **split: Any) -> EdgeConfig:
    exact = {"model": str(site.model), "layers": 2, "codec": "float32", "precision": "float32"}
    flags = {
        "cache_folder": cache,
        "split": {**exact, **split},
        "model": {"threads": 1, "context_tokens": 512},
    }
    return load_config(None, flags=flags, environment={})


@contextmanager
def client_of(site: Site, address: str) -> Iterator[CloudClient]:
    folder = CertificateFolder(site.root)
    pair = folder.device(SCANNER)
    files = TlsFiles(ca=folder.authority.certificate, certificate=pair.certificate, key=pair.key)
    client = CloudClient(address, credentials=files, wire_ids=WireIds(bytes(32)))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def answers_of(
    site: Site, client: CloudClient, cache: Path, *, count: int, chunk_tokens: int = 128
) -> Iterator[SplitAnswers]:
    layers = FirstLayers.open(
        site.model,
        count=count,
        precision=Precision.FLOAT32,
        threads=1,
        context_tokens=512,
        cache_dir=cache,
        max_memory_mb=None,
    )
    answers = SplitAnswers(client, layers, codec=Codec.FLOAT32, chunk_tokens=chunk_tokens)
    try:
        yield answers
    finally:
        answers.close()


def alone(client: CloudClient, text: str, options: GenerateOptions) -> CloudAnswer:
    anonymized = make_anonymized(text, request_id=new_request_id())
    return client.generate(anonymized, options=options, deadline_s=60)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_text_is_the_clouds_own_at_every_cut(
    site: Site, cloud: CloudProcess, cache: Path, kind: str, count: int
) -> None:
    with (
        client_of(site, str(cloud.ready["address"])) as client,
        answers_of(site, client, cache, count=count, chunk_tokens=7) as answers,
    ):
        for number in range(4):
            options = replace(OPTIONS[kind], seed=number)
            text = f"Is the heart of number {number} enlarged?"
            assert answers.why_not(OPEN, options) == ""
            found = answers.answer(make_anonymized(text), options)
            assert found.is_whole
            assert found.text == alone(client, text, options).text
            assert found.result.num_frames > len(found.result.ids)  # the prompt went in chunks


def test_over_a_link_that_is_cut_and_a_server_that_takes_over(
    site: Site, cloud: CloudProcess, cache: Path, tmp_path: Path
) -> None:
    """The second server knows no session: the device runs its layers again, and nothing is lost or said twice."""
    options = OPTIONS["seeded"]
    other = Site(tmp_path, site.model)
    for name in ("ca.crt", "server.crt", "server.key"):
        (tmp_path / name).write_bytes((site.root / name).read_bytes())
    ports = [int(str(cloud.ready["address"]).rpartition(":")[2])]
    with cloud_process(other) as second:
        ports.append(int(str(second.ready["address"]).rpartition(":")[2]))
        with (
            TcpProxy(ports[0]) as proxy,
            client_of(site, proxy.target) as client,
            answers_of(site, client, cache, count=2) as answers,
        ):
            pieces: list[str] = []

            def on_text(piece: str) -> None:
                pieces.append(piece)
                if len(pieces) == 3:
                    proxy.reset()
                if len(pieces) == 8:
                    proxy.target_port = ports[1]
                    proxy.reset()

            found = answers.answer(make_anonymized("Is it large?"), options, on_text=on_text)
            assert found.is_whole
            assert found.text == "".join(pieces) == alone(client, "Is it large?", options).text


@contextmanager
def agent_of(
    site: Site, address: str, config: EdgeConfig, folder: Path
) -> Iterator[tuple[EdgeAgent, CloudClient]]:
    with client_of(site, address) as client:
        bench = Bench(folder, client)
        joint = make_joint_route(config, client, None, find_model=Path)
        tasks = {task.name: task for task in (CHAT, OPEN)}
        trust = Trust(setups=dict.fromkeys(tasks, SETUP))
        agent = EdgeAgent(replace(bench.agent._parts, tasks=tasks, trust=trust, joint=joint))
        try:
            yield agent, client
        finally:
            agent.close()


def test_an_agent_splits_where_the_task_allows_it_and_says_what_it_exposes(
    site: Site,
    cloud: CloudProcess,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(site, cache)
    caplog.set_level(logging.INFO, logger="edge_agent")
    with agent_of(site, str(cloud.ready["address"]), config, tmp_path) as (agent, _):
        refused = agent.ask("doubtful: Smith", task="chat")
        assert refused.route is Route.CLOUD
        assert "hidden states" not in caplog.text
        streamed: list[str] = []
        answer = agent.ask("doubtful: Smith", task="open", on_text=streamed.append)
    assert answer.route is Route.SPLIT
    assert answer.text == "".join(streamed) == refused.text
    assert answer.model == refused.model
    assert answer.sent_bytes > 4 * 32 * answer.usage.input_tokens  # float32 rows of 32 units
    assert "hidden states behind layer 2 as float32, from which" in caplog.text
    assert "Smith" not in caplog.text


def test_layers_of_another_model_are_not_used(
    site: Site, cloud: CloudProcess, cache: Path, tmp_path: Path
) -> None:
    other = make_folder(tmp_path / "other", architecture="qwen2", seed=9, head_dim=16)
    config = config_of(site, cache, model=str(other))
    with agent_of(site, str(cloud.ready["address"]), config, tmp_path) as (agent, client):
        assert agent.ask("doubtful: Smith", task="open").route is Route.CLOUD
        with answers_of(Site(site.root, other), client, cache, count=1) as answers:
            assert "another model" in answers.why_not(OPEN, OPTIONS["greedy"])


def test_a_split_that_breaks_off_is_queued_and_not_continued_by_another_text(
    site: Site, cloud: CloudProcess, cache: Path, tmp_path: Path
) -> None:
    port = int(str(cloud.ready["address"]).rpartition(":")[2])
    streamed: list[str] = []
    with (
        TcpProxy(port) as proxy,
        agent_of(site, proxy.target, config_of(site, cache), tmp_path) as (agent, _),
    ):

        def on_text(piece: str) -> None:
            streamed.append(piece)
            if len(streamed) == 4:
                proxy.refuse()
                proxy.reset()

        answer = agent.ask("doubtful: Smith", task="open", on_text=on_text)
        assert answer.route is Route.QUEUED
        assert answer.text == "".join(streamed)
        assert "breaks off" in answer.reason
        assert agent.status().queued == 1


@pytest.mark.parametrize(
    ("split", "what"), [({"layers": 4}, "give 1 to 3"), ({"layers": None}, "split.layers")]
)
def test_a_cut_that_cannot_be_says_what_to_do(
    site: Site, cache: Path, split: dict[str, Any], what: str
) -> None:
    make: Callable[[], object] = lambda: make_joint_route(  # noqa: E731
        config_of(site, cache, **split),
        None,  # type: ignore[arg-type]
        None,
        find_model=Path,
    )
    with pytest.raises(ConfigError, match=what):
        make()
