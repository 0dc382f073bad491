import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.cloud.sync_transport import BlobChunk
from edge_agent.sync.boot import start
from edge_agent.sync.disk import Disk
from edge_agent.sync.download import Pace, fetch_blob
from edge_agent.sync.errors import NotReachableError, RefusedError
from edge_agent.sync.store import ReleaseStore
from partition.release.delta import CODEC, make_delta
from partition.release.manifest import PART_BYTES, Blob, FileDelta, describe_blob
from tests.sync_simulators import SimulatedCloud, no_waiting

MODEL = bytes(range(251)) * 12_600  # a little over three parts


@pytest.fixture
def blob(world, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(MODEL)
    world.publisher.repository.add_blob(path)
    return describe_blob(path)


@pytest.fixture
def store(tmp_path):
    store = ReleaseStore(tmp_path / "store", Disk())
    store.prepare()
    return store


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, PART_BYTES), max_size=3))
def test_cut_anywhere_costs_one_part_at_most(world, blob, tmp_path_factory, cuts):
    store = ReleaseStore(tmp_path_factory.mktemp("store"), Disk())
    store.prepare()
    cloud = SimulatedCloud(world.publisher.repository)
    for cut in cuts:
        cloud.cut_after_bytes = cut
        with pytest.raises(NotReachableError):
            cloud.fails = lambda name: cloud.cut_after_bytes is None
            fetch_blob(store, blob, cloud, no_waiting())
        cloud.fails = lambda name: False
    fetch_blob(store, blob, cloud, no_waiting())
    assert store.blob(blob.sha256).read_bytes() == MODEL
    assert cloud.sent_bytes <= len(MODEL) + len(cuts) * PART_BYTES


def test_every_second_call_fails(world, blob, store):
    calls = []

    def fails(name):
        calls.append(name)
        return len(calls) % 2 == 0

    world.cloud.fails = fails
    world.cloud.cut_after_bytes = PART_BYTES + 17
    fetch_blob(store, blob, world.cloud, no_waiting())
    assert store.blob(blob.sha256).read_bytes() == MODEL


def test_dead_link_ends_the_attempt(world, blob, store):
    world.cloud.is_reachable = False
    with pytest.raises(NotReachableError, match="link breaks"):
        fetch_blob(store, blob, world.cloud, no_waiting())


@pytest.mark.parametrize("at", [0, PART_BYTES - 1, PART_BYTES, len(MODEL) - 1])
def test_flipped_bit_is_refused(world, blob, store, at):
    world.cloud.tamper = lambda name, data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(RefusedError) as caught:
        fetch_blob(store, blob, world.cloud, no_waiting())
    assert caught.value.kind == "bad_hash"
    assert not store.has_blob(blob.sha256)


def test_part_that_is_bad_once_is_fetched_again(world, blob, store):
    tampered = []

    def tamper(name, data):
        tampered.append(name)
        return b"?" + data[1:] if len(tampered) == 1 else data

    world.cloud.tamper = tamper
    fetch_blob(store, blob, world.cloud, no_waiting())
    assert store.blob(blob.sha256).read_bytes() == MODEL


def test_endless_blob_is_refused(world, blob, store):
    world.cloud.tamper = lambda name, data: data + b"more"
    with pytest.raises(RefusedError) as caught:
        fetch_blob(store, blob, world.cloud, no_waiting())
    assert caught.value.kind == "endless_data"


def test_damaged_leftover_is_cut_off(world, blob, store):
    path = store.folder / "staging" / f"{blob.sha256}.part"
    path.write_bytes(MODEL[:PART_BYTES] + b"x" * (PART_BYTES + 7))
    fetch_blob(store, blob, world.cloud, no_waiting())
    assert world.cloud.sent_bytes == len(MODEL) - PART_BYTES


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_slow_loris_is_left(world, blob, store):
    clock = Clock()

    class Slow(SimulatedCloud):
        def get_blob(self, digest, offset):
            for at in range(offset, len(MODEL)):
                clock.now += 1.0
                yield BlobChunk(at, MODEL[at : at + 1])

    with pytest.raises(NotReachableError) as caught:
        pace = Pace(clock=clock, sleep=clock.sleep)
        fetch_blob(store, blob, Slow(world.publisher.repository), pace)
    assert caught.value.kind == "too_slow"
    assert clock.now < 70


def test_bandwidth_cap_is_kept(world, blob, store):
    clock = Clock()
    pace = Pace(max_bytes_per_s=100_000, clock=clock, sleep=clock.sleep)
    fetch_blob(store, blob, world.cloud, pace)
    assert clock.now == pytest.approx(len(MODEL) / 100_000, rel=0.01)


def test_flipped_bit_in_any_object_never_reaches_a_trial(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", MODEL[:5000] + b"!" + MODEL[5001:], delta_bases=("cxr-1",))
    seen = []
    for target in range(12):
        seen.clear()

        def tamper(name, data, target=target):
            seen.append(name)
            if len(seen) != target + 1 or not data:
                return data
            at = len(data) * 2 // 3
            return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

        world.cloud.tamper = tamper
        result = client.run_cycle()
        if result.running == "cxr-2":
            assert client.store.verify("cxr-2")
            client.roll_back()
        world.publisher.desire("cxr-2", retry_epoch=target + 1)
        assert start(world.folder).release == "cxr-1"
    world.cloud.tamper = lambda name, data: data
    assert client.run_cycle().running == "cxr-2"


def test_delta_that_makes_another_file_is_refused(store, blob, tmp_path):
    names = [tmp_path / name for name in ("old", "new", "delta")]
    names[0].write_bytes(b"a" * 100_000)
    names[1].write_bytes(b"a" * 99_999 + b"b")
    make_delta(*names)
    base, made, delta = (describe_blob(path) for path in names)
    for described, path in ((base, names[0]), (delta, names[2])):
        store.adopt(described, path)
    file_delta = FileDelta(path="m", base_sha256=base.sha256, codec=CODEC, blob=delta)
    with pytest.raises(RefusedError, match="not the one"):
        store.apply(file_delta, Blob(sha256="0" * 64, size_bytes=made.size_bytes, parts=()))
    with pytest.raises(RefusedError, match="makes more"):
        store.apply(file_delta, Blob(sha256=made.sha256, size_bytes=10, parts=()))
    store.apply(file_delta, made)
    assert store.blob(made.sha256).read_bytes() == names[1].read_bytes()
