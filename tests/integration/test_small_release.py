"""A new certificate and a new plan reach a serving agent as a release of kilobytes, and both are used."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cloud_service.config import ReleasesConfig
from cloud_service.fleet.channels import set_channel
from edge_agent import EdgeAgent
from edge_agent.config import EdgeConfig
from edge_agent.flow import Route
from edge_agent.sync.worker import SyncWorker
from partition.fingerprint import UNSCORED, Loss, fingerprint
from partition.planning.cost import Mode
from partition.planning.profile import Compute, DeviceProfile, Link, as_document
from tests.release_simulator import Publisher
from tests.sync_server import Server
from tests.tiny_models import make_folder

TASK = b"""
name = "cxr"
kind = "classify"
labels = ["normal", "abnormal"]
[prompt]
template = "{text}"
"""
EDGE = Compute(
    model="small",
    num_layers=4,
    hidden_size=64,
    layer_prefill_s=(1e-4, 1e-6, 0.0),
    layer_decode_s=(2e-4, 0.0),
)
CLOUD = replace(EDGE, model="large", layer_decode_s=(2e-2, 0.0), verify_s=(0.08, 1e-3))
PROMISE = "error at most 0.05 at 0.95 confidence"
NEAR = Link(round_trip_s=0.002, up_bytes_per_s=1e7, down_bytes_per_s=1e7)
FAR = replace(NEAR, round_trip_s=5.0)


def profile(link):
    made = DeviceProfile(edge=EDGE, cloud=CLOUD, link=link)
    return json.dumps(as_document(made)).encode()


def certificate(agent):
    return json.dumps(
        {
            "status": "certified",
            "threshold": 0.0,
            "local_share": 1.0,
            "observed_error": 0.0,
            "error_upper_bound": 0.01,
            "max_error": 0.05,
            "confidence": 0.95,
            "n": 500,
            "fingerprint": fingerprint(
                setup_sha256=agent.setup_sha256("cxr"),
                scorer_sha256=UNSCORED,
                task="cxr",
                loss=Loss.ERROR,
            ),
            "task": "cxr",
            "bound": True,
        }
    ).encode()


@pytest.fixture
def publisher(tmp_path):
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    folder = make_folder(tmp_path / "model")
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.head_dim = 64, 16  # what the runtime's attention takes
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    files = {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    publisher.publish("cxr-1", {**files, "tasks/cxr.toml": TASK, "profile.json": profile(FAR)})
    set_channel(publisher.folder, "cxr", ("clinic",))
    publisher.desire("cxr-1")
    return publisher


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def task_of(agent):
    return next(task for task in agent.tasks if task.name == "cxr")


def test_certificate_and_plan_of_a_small_release_are_used(publisher, tmp_path):
    (tmp_path / "root.json").write_bytes(publisher.repository.read("1.root.json"))
    (tmp_path / "own.json").write_bytes(profile(FAR))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "cxr.toml").write_bytes(TASK)
    with Server(ReleasesConfig(directory=publisher.folder)) as server:
        config = EdgeConfig(
            state_folder=tmp_path / "state",
            cache_folder=tmp_path / "cache",
            default_task="cxr",
            tasks=(tmp_path / "tasks",),
            anonymizer={
                "languages": ()
            },  # nothing leaves, so no canaries: their pipelines load slowly
            model={"name": str(tmp_path / "model"), "threads": 1, "context_tokens": 256},
            cloud={
                "target": f"127.0.0.1:{server.port}",
                "insecure_loopback": True,
                "verify": True,
                "profile": tmp_path / "own.json",
            },
            sync={
                "channel": "cxr",
                "root": tmp_path / "root.json",
                "device_id": "clinic/ct-1",
                "soak_s": 0.0,
                "min_answers": 1,
                "hint_jitter_s": 0.0,
            },
        )
        with EdgeAgent.from_settings(config) as agent:
            worker = SyncWorker(config, agent, stay=agent.stay, tick_s=0.1)
            worker.start()
            try:
                wait_for(lambda: (tmp_path / "state/sync/current").is_symlink())
                assert agent.status().certified_tasks == ()
                assert agent.plans.mode_of(task_of(agent)) is Mode.CLOUD
                model = agent.status().model
                publisher.publish(
                    "cxr-2",
                    {"certificates/cxr.json": certificate(agent), "profile.json": profile(NEAR)},
                    over="cxr-1",
                )
                began = time.monotonic()
                publisher.desire("cxr-2")
                wait_for(lambda: agent.status().certified_tasks == ("cxr",))
                seconds = time.monotonic() - began
                answer = agent.ask("lungs clear")
                assert answer.route is Route.LOCAL
                assert PROMISE in answer.reason
                assert agent.plans.mode_of(task_of(agent)) is Mode.VERIFY
                assert agent.status().model == model  # the same one, not loaded again
                print(f"certificate and plan in use {seconds:.1f} s after they were set")
            finally:
                worker.close()


def test_a_served_agent_follows_its_channel(publisher, tmp_path):
    (tmp_path / "root.json").write_bytes(publisher.repository.read("1.root.json"))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "cxr.toml").write_bytes(TASK)
    with Server(ReleasesConfig(directory=publisher.folder)) as server:
        (tmp_path / "edge.toml").write_text(
            f'state_folder = "{tmp_path / "state"}"\ncache_folder = "{tmp_path / "cache"}"\n'
            f'default_task = "cxr"\ntasks = ["tasks"]\n[http]\nport = 0\n[anonymizer]\nlanguages = []\n'
            f'[model]\nname = "{tmp_path / "model"}"\nthreads = 1\ncontext_tokens = 256\n'
            f'[cloud]\ntarget = "127.0.0.1:{server.port}"\ninsecure_loopback = true\n'
            '[sync]\nchannel = "cxr"\nroot = "root.json"\ndevice_id = "clinic/ct-1"\nhint_jitter_s = 0.0\n'
        )
        command = "from edge_agent.cli import main; main()"
        with subprocess.Popen(
            [sys.executable, "-c", command, "serve", "--config", str(tmp_path / "edge.toml")],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_for(lambda: (tmp_path / "state/sync/current").is_symlink())
            finally:
                process.terminate()
                _, errors = process.communicate(timeout=30)
    assert "listening on" in errors
    assert process.returncode == 0
