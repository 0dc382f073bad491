"""A link that degrades in the middle of a long run: the agent re-plans within two seconds, no request fails, nothing flaps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_service.tenancy.pki import CertificateFolder
from edge_agent import EdgeAgent, Route
from edge_agent.cloud.client import CloudClient, TlsFiles
from edge_agent.cloud.cloud import WireIds
from edge_agent.config import load_config
from edge_agent.extend.joint_setup import make_joint_route, make_plans
from edge_agent.flow import Answer, Request
from edge_agent.local_model import LocalModel
from edge_agent.trust import Trust
from partition.fingerprint import Setup
from partition.planning.profile import DeviceProfile, save_profile
from partition.stages.stage_range import Precision
from partition.task import Limits, Policy, Task, TaskKind
from protos.request_id import new_request_id
from tests.cloud_harness import SCANNER, Site, cloud_process
from tests.plan_scenarios import CLOUD, EDGE, LINK
from tests.simulators import SimulatedCloud, TcpProxy
from tests.tiny_models import make_folder
from tests.unit.edge_agent.test_agent import Bench

TASK = Task(
    name="summary",
    kind=TaskKind.GENERATE,
    limits=Limits(max_output_tokens=8),  # short, so that a way is soon chosen anew
    policy=Policy(may_stay_local=False),
)
SETUP = Setup(
    model="m", prompt_sha256="p", preprocess_version="1", anonymizer_version="1", language="en"
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[EdgeAgent, TcpProxy]]:
    """An agent whose drafter guesses badly, so that nearly every token is a round, over a link that a test may slow."""
    folder = make_folder(tmp_path / "large", architecture="qwen2", seed=3, head_dim=16)
    small = make_folder(tmp_path / "small", architecture="qwen2", seed=4, head_dim=16)
    site = Site.make(tmp_path / "site", folder)
    profile = tmp_path / "device.json"
    # Profiled far slower than these tiny models are even on a busy machine: VERIFY wins up to some 60 ms.
    edge = replace(EDGE, layer_decode_s=(3e-4, 1e-9), ends_s=2e-3)
    large = replace(
        CLOUD,
        layer_prefill_s=(1e-5, 1e-6, 0.0),
        layer_decode_s=(4e-3, 1e-9),
        ends_s=8e-3,
        verify_s=(0.06, 0.004),
    )
    link = replace(LINK, round_trip_s=0.005, round_trip_p95_s=0.006)
    save_profile(DeviceProfile(edge=edge, cloud=large, link=link), profile)
    config = load_config(
        None, flags={"cloud": {"verify": True, "profile": profile}}, environment={}
    )
    pki = CertificateFolder(site.root)
    pair = pki.device(SCANNER)
    files = TlsFiles(ca=pki.authority.certificate, certificate=pair.certificate, key=pair.key)
    model = LocalModel.open(
        small,
        threads=1,
        max_memory_mb=None,
        context_tokens=512,
        cache_dir=tmp_path,
        precision=Precision.FLOAT32,
    )
    with cloud_process(site) as cloud:
        port = int(str(cloud.ready["address"]).rpartition(":")[2])
        with TcpProxy(port) as proxy:
            plans = make_plans(config)
            assert plans is not None
            client = CloudClient(
                proxy.target, credentials=files, wire_ids=WireIds(bytes(32)), observer=plans
            )
            parts = replace(
                Bench(tmp_path, SimulatedCloud()).agent._parts,
                tasks={TASK.name: TASK},
                trust=Trust(setups={TASK.name: SETUP}),
                model=model,
                cloud=client,
                joint=make_joint_route(config, client, plans, find_model=Path),
                plans=plans,
            )
            agent = EdgeAgent(parts)
            try:
                yield agent, proxy
            finally:
                agent.close()


def ask(agent: EdgeAgent, number: int) -> Answer:
    return agent.ask(
        Request(id=new_request_id(), task=TASK.name, text=f"Is number {number} large?")
    )


def test_a_link_that_degrades_in_mid_run(
    running: tuple[EdgeAgent, TcpProxy], caplog: pytest.LogCaptureFixture
) -> None:
    agent, proxy = running
    caplog.set_level(logging.INFO, logger="edge_agent.extend.task_plans")
    before = [ask(agent, number) for number in range(8)]
    assert {answer.route for answer in before} == {Route.VERIFY}

    proxy.delay_s = 0.08  # each way, from now on, in the middle of whatever is under way
    degraded_at = time.time()
    after = [ask(agent, number) for number in range(8)]
    changes = [record for record in caplog.records if "from now on" in record.message]

    assert len(changes) == 1  # and no way back
    assert changes[0].created - degraded_at <= 2.0
    assert after[-1].route is Route.CLOUD
    assert {answer.route for answer in after} <= {Route.VERIFY, Route.CLOUD}
    # The same texts whatever the way: nothing failed, nothing was cut short.
    assert [answer.text for answer in after] == [answer.text for answer in before]
    plans = agent.plans
    assert plans is not None
    state = plans.state_of(TASK)
    assert state.num_changes == 1
    assert state.link.round_trip_s == pytest.approx(0.2, rel=0.5)
