"""A serving agent takes releases over: no request fails, and every answer names the model it came from."""

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cloud_service.config import ReleasesConfig
from cloud_service.fleet.channels import set_channel
from cloud_service.fleet.release_service import open_fleet_store
from cloud_service.fleet.tables import DEVICES
from edge_agent import EdgeAgent
from edge_agent.config import EdgeConfig
from edge_agent.sync.boot import Boot
from edge_agent.sync.client import SyncClient, SyncSettings
from edge_agent.sync.running import Stay, begin, sync_folder
from edge_agent.sync.worker import SyncWorker
from tests.release_simulator import Publisher
from tests.sync_server import Server
from tests.sync_simulators import SimulatedCloud, SimulatedGate, no_waiting
from tests.tiny_models import make_folder

TASK = b"""
name = "cxr"
kind = "classify"
labels = ["normal", "abnormal"]
[prompt]
template = "{text}"
"""


def tiny_release(folder, seed):
    make_folder(folder)
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.head_dim = 64, 16  # what the runtime's attention takes
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    files = {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return {**files, "tasks/cxr.toml": TASK}


@pytest.fixture
def publisher(tmp_path):
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    return publisher


def test_agent_changes_its_model_while_it_answers(publisher, tmp_path):
    config = EdgeConfig(
        state_folder=tmp_path / "state",
        cache_folder=tmp_path / "cache",
        default_task="cxr",
        offline=True,
        model={"threads": 1, "context_tokens": 256},
    )
    for number in (1, 2):
        publisher.publish(f"cxr-{number}", tiny_release(tmp_path / f"model-{number}", number))
    publisher.desire("cxr-1")
    client = SyncClient(
        sync_folder(config),
        SyncSettings(
            channel="cxr", device_id="clinic/ct-1", runtime="0.1.0", soak_s=0.0, min_answers=1
        ),
        root=publisher.repository.read("1.root.json"),
        transport=SimulatedCloud(publisher.repository),
        gate=SimulatedGate(),
        pace=no_waiting(),
    )
    assert client.run_cycle().running == "cxr-1"
    with EdgeAgent.from_settings(config) as agent:
        first = agent.ask("lungs clear").model
        models, failures = [], []
        stop = threading.Event()

        def ask():
            while not stop.is_set():
                try:
                    models.append(agent.ask("lungs clear").model)
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            client.observe(seconds=700.0, answers=9)
            publisher.desire("cxr-2")
            assert client.run_cycle().running == "cxr-2"
            agent.switch_to(begin(config)[0])
            second = agent.ask("lungs clear").model
            client.roll_back()
            agent.switch_to(begin(config)[0])
            third = agent.ask("lungs clear").model
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert (first, third) == (first, first)
        assert second != first
        assert set(models) == {first, second}
        assert agent.num_answers == len(models) + 3
    client.close()


class SwitchableAgent:
    """Notes what it was told to answer with."""

    def __init__(self):
        self.models = []
        self.num_answers = 0
        self.route_shares = (("LOCAL", 0.75), ("CLOUD", 0.25))

    def switch_to(self, config):
        self.models.append(Path(config.model.name).read_bytes())
        self.num_answers += 10


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_worker_follows_the_channel_by_hints(publisher, tmp_path):
    for number in (1, 2):
        publisher.publish(f"cxr-{number}", {"model.gguf": f"model {number}".encode()})
    set_channel(publisher.folder, "cxr", ("clinic",))
    publisher.desire("cxr-1")
    (tmp_path / "root.json").write_bytes(publisher.repository.read("1.root.json"))
    (tmp_path / "own.gguf").write_bytes(b"own model")
    with Server(ReleasesConfig(directory=publisher.folder)) as server:
        config = EdgeConfig(
            state_folder=tmp_path / "state",
            cache_folder=tmp_path / "cache",
            model={"name": str(tmp_path / "own.gguf")},
            anonymizer={
                "languages": ()
            },  # nothing leaves, so no canaries: their pipelines load slowly
            cloud={"target": f"127.0.0.1:{server.port}", "insecure_loopback": True},
            sync={
                "channel": "cxr",
                "root": tmp_path / "root.json",
                "device_id": "clinic/ct-1",
                "soak_s": 0.0,
                "min_answers": 5,
            },
        )
        agent = SwitchableAgent()
        stay = Stay(sync_folder(config), Boot(release=None, folder=None))
        worker = SyncWorker(config, agent, stay=stay, tick_s=0.05, jitter_s=0.0)
        worker.start()
        try:
            wait_for(lambda: agent.models == [b"model 1"])
            publisher.desire("cxr-2")
            wait_for(lambda: agent.models == [b"model 1", b"model 2"])
        finally:
            worker.close()
    assert stay.is_counted
    store = open_fleet_store(publisher.folder)
    rows = store.run_here(lambda connection: connection.execute(sa.select(DEVICES)).all())
    assert [row.cloud_share for row in rows] == [0.25]
    store.close()
