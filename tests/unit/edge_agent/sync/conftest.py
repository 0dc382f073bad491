import tempfile
from pathlib import Path

import pytest

from edge_agent.sync.client import SyncClient, SyncSettings
from tests.release_simulator import Publisher
from tests.sync_simulators import SimulatedCloud, SimulatedGate, no_waiting


class World:
    """A publisher, a cloud and one device, which can be started as often as one likes."""

    def __init__(self, folder):
        self.folder = folder / "device"
        self.publisher = Publisher(folder / "publisher")
        self.root = self.publisher.begin()
        self.cloud = SimulatedCloud(self.publisher.repository)
        self.gate = SimulatedGate()
        self.settings = {"soak_s": 1000.0, "min_answers": 5}
        self.clients = []

    def device(self, *, folder=None, disk=None, **options):
        settings = SyncSettings(
            channel="cxr", device_id="clinic/ct-1", runtime="0.1.0", **self.settings
        )
        options = {"pace": no_waiting(), **options}
        client = SyncClient(
            folder or self.folder,
            settings,
            root=self.root,
            transport=self.cloud,
            gate=self.gate,
            disk=disk,
            **options,
        )
        self.clients.append(client)
        return client

    def release(self, name, model, **request):
        """Publish a release and have every device run it."""
        self.publisher.publish(name, {"model.bin": model, "tasks/t.toml": name.encode()}, **request)
        self.publisher.desire(name)

    def confirmed(self, name, model, client=None, **request):
        """Publish, install and confirm a release."""
        self.release(name, model, **request)
        client = client or self.device()
        assert client.run_cycle().running == name
        assert client.observe(seconds=2000, answers=50) == "CONFIRMED"
        return client

    def close(self):
        for client in self.clients:
            client.close()


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory where there is one: these tests sync thousands of times."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()
