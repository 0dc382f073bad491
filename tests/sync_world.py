"""A publisher, a cloud and one device in a folder, for everything that is asked of an update."""

from __future__ import annotations

from edge_agent.sync.client import SyncClient, SyncSettings
from partition.release.manifest import PART_BYTES
from tests.release_simulator import Publisher
from tests.sync_simulators import SimulatedCloud, SimulatedGate, no_waiting

MODEL = bytes(range(256)) * (PART_BYTES // 256) + b"the second part"
EDITED = MODEL[:1000] + b"!" + MODEL[1001:]


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


def begin_update(world):
    """Have a device on cxr-1 that shall update to cxr-2: one file by delta, one whole, one unchanged."""
    files = {"model.bin": MODEL, "tokenizer.json": b"{}", "tasks/t.toml": b"one"}
    world.publisher.publish("cxr-1", files)
    world.publisher.desire("cxr-1")
    client = world.device()
    client.run_cycle()
    client.observe(seconds=2000, answers=50)
    client.run_cycle()
    client.close()
    files = {**files, "model.bin": EDITED, "tasks/t.toml": b"two" * 200_000, "plan.json": b"{}"}
    world.publisher.publish("cxr-2", files, delta_bases=("cxr-1",))
    world.publisher.desire("cxr-2")
    return world


def install_and_confirm(world, folder, disk=None):
    """Do all that an update takes on a device."""
    client = world.device(folder=folder, disk=disk)
    try:
        client.run_cycle()
        client.observe(seconds=2000, answers=50)
        client.run_cycle()
    finally:
        client.close()
