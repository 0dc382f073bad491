"""Adapter releases, and releases over another one: whole in themselves, and only what is new travels."""

import pytest

from cloud_service.errors import RepositoryError
from edge_agent.sync.records import State
from partition.release.manifest import ReleaseKind

MODEL = bytes(range(256)) * 8192
BASE = {
    "model.gguf": MODEL,
    "tasks/t.toml": b"task",
    "golden.json": b"of the base",
    "certificates/t.json": b"of the base",
}
ADAPTER = {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"A" * 5000}


def paths(client, release):
    return {file.path for file in client.store.manifest(release).files}


def confirmed_base(world):
    world.publisher.publish("cxr-1", BASE)
    world.publisher.desire("cxr-1")
    client = world.device()
    client.run_cycle()
    assert client.observe(seconds=2000, answers=50) is State.CONFIRMED
    return client


def publish_adapter(world, name="cxr-1-a"):
    world.publisher.publish(name, ADAPTER, kind=ReleaseKind.ADAPTER, base_release="cxr-1")
    world.publisher.desire(name)


def test_adapter_release_brings_its_model_along_and_only_the_adapter_travels(world):
    client = confirmed_base(world)
    publish_adapter(world)
    result = client.run_cycle()
    assert result.running == "cxr-1-a"
    assert result.fetched_bytes == sum(len(data) for data in ADAPTER.values())
    assert paths(client, "cxr-1-a") == {*ADAPTER, "model.gguf", "tasks/t.toml"}
    manifest = client.store.manifest("cxr-1-a")
    assert (manifest.kind, manifest.base_release) == (ReleaseKind.ADAPTER, "cxr-1")
    folders = [client.store.release(name) / "model.gguf" for name in ("cxr-1", "cxr-1-a")]
    assert folders[0].samefile(folders[1])
    client.observe(seconds=2000, answers=50)
    client.roll_back()
    assert client.store.current == "cxr-1"
    assert client.store.verify("cxr-1")


def test_device_without_the_base_gets_it_with_the_adapter(world):
    world.publisher.publish("cxr-1", BASE)
    publish_adapter(world)
    client = world.device()
    assert client.run_cycle().running == "cxr-1-a"
    assert client.store.verify("cxr-1-a")


def test_adapter_outlives_the_release_of_its_base(world):
    client = confirmed_base(world)
    for number in (1, 2, 3):
        publish_adapter(world, f"cxr-1-a{number}")
        client.run_cycle()
        assert client.observe(seconds=2000, answers=50) is State.CONFIRMED
    client.run_cycle()
    assert not client.store.release("cxr-1").exists()  # collected
    assert client.store.verify("cxr-1-a3")


def test_small_release_keeps_everything_else(world):
    client = confirmed_base(world)
    world.publisher.publish(
        "cxr-2", {"certificates/t.json": b"new", "profile.json": b"{}"}, over="cxr-1"
    )
    world.publisher.desire("cxr-2")
    assert client.run_cycle().fetched_bytes == 5
    assert paths(client, "cxr-2") == {*BASE, "profile.json"}
    folder = client.store.release("cxr-2")
    assert (folder / "certificates" / "t.json").read_bytes() == b"new"
    assert (folder / "golden.json").read_bytes() == b"of the base"
    assert client.store.manifest("cxr-2").golden is not None


@pytest.mark.parametrize(
    ("bundle", "expected"),
    [
        ({"model/x.safetensors": b"1"}, {"model/x.safetensors", "tasks/t.toml"}),
        (ADAPTER, {*ADAPTER, "model.gguf", "tasks/t.toml"}),
        ({"golden.json": b"2"}, set(BASE)),
    ],
)
def test_what_was_measured_on_another_model_stays_behind(world, bundle, expected):
    world.publisher.publish("cxr-1", BASE)
    manifest = world.publisher.publish("cxr-2", bundle, over="cxr-1").manifest
    assert {file.path for file in manifest.files} == expected


def test_adapter_release_without_adapter_or_model_is_refused(world):
    world.publisher.publish("cxr-0", {"tasks/t.toml": b"task"})
    world.publisher.publish("cxr-1", BASE)
    for base, files in (("cxr-1", {"x": b"1"}), ("cxr-0", ADAPTER)):
        with pytest.raises(RepositoryError, match="needs the folder"):
            world.publisher.publish(f"{base}-a", files, kind=ReleaseKind.ADAPTER, base_release=base)
