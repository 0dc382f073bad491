"""The operator's whole way on the command line: ceremony, release, rollout, a device that follows, and back."""

import json
import tempfile
from pathlib import Path

import pytest

from cloud_service.cli import cloud_service
from cloud_service.config import ReleasesConfig
from cloud_service.errors import CloudServiceError
from cloud_service.releases.publisher import open_repository
from edge_agent.commands.sync import sync
from edge_agent.errors import EdgeError
from edge_agent.sync.client import SyncClient, SyncSettings
from partition.console_script import run_script
from partition.errors import PartitionError
from tests.sync_server import Server
from tests.sync_simulators import SimulatedCloud, SimulatedGate, no_waiting


@pytest.fixture
def folder(tmp_path):
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


class Operator:
    def __init__(self, folder, capsys):
        self.folder = folder
        self.capsys = capsys

    def __call__(self, *words, code=0, command=cloud_service):
        self.capsys.readouterr()
        errors = (CloudServiceError, EdgeError, PartitionError)
        arguments = [str(word) for word in (*words, "--json")]
        assert run_script(command, errors, arguments) == code, self.capsys.readouterr()
        out = self.capsys.readouterr().out.strip().splitlines()
        return json.loads(out[0]) if out else {}

    def publish(self, *words, **options):
        return self("publish", *words, "--repository", self.folder / "repository", **options)

    def fleet(self, *words, **options):
        words = ("fleet", *words, "--repository", self.folder / "repository", "--channel", "cxr")
        return self(*words, **options)

    def sign(self, path, role):
        for number in (1, 3):
            key = self.folder / "holders" / f"{role}-{number}.pem"
            self("publish", "sign", path, "--key", key)

    def release(self, name, **files):
        bundle = self.folder / name
        for path, text in files.items():
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            (bundle / path).write_text(text)
        staged = self.publish("release", name, "--bundle", bundle, "--channel", "cxr")
        self.sign(staged["sign"], "targets")
        assert self.publish("commit")["published"] == ["targets"]


@pytest.fixture
def operator(folder, capsys):
    operator = Operator(folder, capsys)
    keys = {}
    for role in ("root", "targets"):
        for number in (1, 2, 3):
            made = operator(
                "publish",
                "key",
                f"{role}-{number}",
                "--output",
                folder / "holders",
                "--no-passphrase",
            )
            keys.setdefault(role, []).extend([f"--{role}", made["public_key"]])
    staged = operator.publish("init", *keys["root"], *keys["targets"])["sign"]
    operator.sign(staged[0], "root")
    operator.sign(staged[1], "targets")
    assert operator.publish("commit")["published"] == ["root", "targets"]
    operator.publish("channel", "cxr", "--tenant", "clinic")
    return operator


def test_ceremony_release_rollout_device_and_back(operator, folder):
    operator.release("cxr-1", plan="one")
    operator.release("cxr-2", plan="two")
    listed = operator.publish("list")
    assert [item["release"] for item in listed["releases"]] == ["cxr-1", "cxr-2"]
    assert operator.fleet("begin", "cxr-1")["state"] == "DONE"
    config = folder / "edge.toml"
    with Server(ReleasesConfig(directory=folder / "repository")) as server:
        config.write_text(
            f'state_folder = "{folder}/state"\n[model]\nname = "{folder}/none.gguf"\n'
            f'[cloud]\ntarget = "127.0.0.1:{server.port}"\ninsecure_loopback = true\n'
            f'[sync]\nchannel = "cxr"\nroot = "repository/metadata/1.root.json"\n'
            'device_id = "clinic/ct-1"\n'
        )
        found = operator("--config", config, command=sync)
        assert (found["running"], found["state"]) == ("cxr-1", "TRIAL")
        assert operator.fleet("status")["devices"] == {"cxr-1 TRIAL": 1}
        assert operator.fleet("begin", "cxr-2", "--steps", "50,100")["state"] == "RUNNING"
        assert operator("--config", config, command=sync)["running"] == "cxr-2"
        operator.fleet("hold")
        operator.fleet("resume")
        operator.fleet("rollback")
        status = operator.fleet("status")
        assert (status["base"], status["candidate"]) == ("cxr-1", None)
        assert [entry["action"] for entry in status["audit"]][:3] == ["ROLLBACK", "RESUME", "HOLD"]
        assert operator("--config", config, "--status", command=sync)["running"] == "cxr-2"
        assert operator("--config", config, "--rollback", command=sync)["running"] == "factory"
    assert operator("--config", config, code=1, command=sync)["error_kind"] == "unreachable"
    operator("--config", config, "--rollback", code=1, command=sync)


def test_rotation_on_the_command_line(operator, folder):
    made = operator("publish", "key", "root-4", "--output", folder / "holders", "--no-passphrase")
    first = json.loads((folder / "holders" / "root-2.pub.json").read_text())["keyid"]
    staged = operator.publish(
        "rotate", "--role", "root", "--remove", first[:10], "--add", made["public_key"]
    )
    operator.sign(staged["sign"], "root")
    assert operator.publish("commit")["published"] == ["root"]
    assert (folder / "repository" / "metadata" / "2.root.json").exists()
    staged = operator.publish("renew", "--role", "targets")
    operator.publish("commit", code=1)
    operator.sign(staged["sign"], "targets")
    operator.publish("commit")
    assert operator.publish("refresh")["timestamp"] >= 2


def test_all_online_keys_are_exchanged_after_a_break_in(operator, folder):
    """Root and targets are staged together, each with all its changes; the thief's keys sign nothing that counts."""
    operator.release("cxr-1", plan="one")
    operator.fleet("begin", "cxr-1")
    new = folder / "new-keys"
    for role in ("timestamp", "snapshot", "director"):
        key = operator("publish", "key", role, "--output", new, "--no-passphrase")["public_key"]
        old = json.loads((folder / "online-keys" / f"{role}.pub.json").read_text())["keyid"]
        staged = operator.publish("rotate", "--role", role, "--remove", old, "--add", key)
        operator.sign(staged["sign"], "targets" if role == "director" else "root")
    operator.sign(folder / "repository/staged/2.root.json", "root")
    operator.publish("commit", code=1)  # the old folder of keys
    assert not (folder / "repository/metadata/2.root.json").exists()
    operator.publish("refresh")
    done = operator.publish("commit", "--online-keys", new)
    assert done["published"] == ["root", "targets"]
    operator.publish("refresh", code=1)
    operator.publish("refresh", "--online-keys", new)
    cloud = SimulatedCloud(open_repository(folder / "repository", new))
    root = (folder / "repository/metadata/1.root.json").read_bytes()
    client = SyncClient(
        folder / "device",
        SyncSettings(channel="cxr", device_id="clinic/ct-1", runtime="0.1.0"),
        root=root,
        transport=cloud,
        gate=SimulatedGate(),
        pace=no_waiting(),
    )
    assert client.run_cycle().running == "cxr-1"
    client.close()


@pytest.mark.parametrize(
    "words",
    [
        ("begin", "cxr-1", "--steps", "10,5,100"),
        ("begin", "cxr-1", "--steps", "x"),
        ("begin", "cxr-1", "--false-abort", "2"),
    ],
)
def test_wrong_usage(operator, words):
    operator.fleet(*words, code=2)


def test_errors_are_sentences(operator):
    operator.fleet("begin", "cxr-9", code=1)
    operator.fleet("advance", code=1)
    operator.publish("rotate", "--role", "root", code=2)
    operator.publish("rotate", "--role", "root", "--remove", "ffff", code=1)
