"""Device and cloud over real gRPC: a release is fetched, tried, confirmed and reported; strangers find nothing."""

from __future__ import annotations

import contextlib
import hashlib
import time

import pytest

from cloud_service.config import ReleasesConfig
from cloud_service.fleet.channels import set_channel
from cloud_service.fleet.fleet import Fleet
from cloud_service.fleet.release_service import open_fleet_store
from cloud_service.fleet.rollout import Policy
from edge_agent.cloud.sync_client import GrpcSyncTransport
from edge_agent.cloud.sync_transport import Reported
from edge_agent.sync.client import SyncClient, SyncSettings
from protos.errors import (
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from protos.request_id import new_request_id
from tests.release_simulator import Publisher
from tests.sync_server import Server
from tests.sync_simulators import SimulatedGate, no_waiting

MODEL = bytes(range(256)) * 5000


@pytest.fixture
def publisher(tmp_path):
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    publisher.publish("cxr-1", {"model.bin": MODEL})
    publisher.publish("ct-1", {"model.bin": b"another"}, channel="ct")
    set_channel(publisher.folder, "cxr", ("clinic",))
    set_channel(publisher.folder, "ct", ("rival",))
    publisher.desire("cxr-1")
    return publisher


@contextlib.contextmanager
def connected(config, **options):
    with Server(config, **options) as server:
        transport = GrpcSyncTransport(f"127.0.0.1:{server.port}", insecure_loopback=True)
        try:
            yield transport
        finally:
            transport.close()


@pytest.fixture
def transport(publisher):
    with connected(ReleasesConfig(directory=publisher.folder)) as transport:
        yield transport


def device(publisher, transport, folder):
    return SyncClient(
        folder,
        SyncSettings(
            channel="cxr", device_id="clinic/ct-1", runtime="0.1.0", soak_s=10.0, min_answers=1
        ),
        root=publisher.repository.read("1.root.json"),
        transport=transport,
        gate=SimulatedGate(),
        pace=no_waiting(),
    )


def test_release_travels_and_is_reported(publisher, transport, tmp_path):
    client = device(publisher, transport, tmp_path / "device")
    result = client.run_cycle()
    assert (result.running, result.error_kind) == ("cxr-1", "")
    assert client.store.verify("cxr-1")
    client.observe(seconds=700, answers=9)
    store = open_fleet_store(publisher.folder)
    fleet = Fleet(publisher.repository)
    status = store.run_here(lambda connection: fleet.status(connection, "cxr"))
    assert status["devices"] == {"cxr-1 CONFIRMED": 1}
    store.close()
    client.close()


def test_blob_goes_on_from_any_offset(publisher, transport):
    digest = hashlib.sha256(MODEL).hexdigest()
    chunks = list(transport.get_blob(digest, 1_000_001))
    assert b"".join(chunk.data for chunk in chunks) == MODEL[1_000_001:]
    assert max(len(chunk.data) for chunk in chunks) <= 256 << 10
    assert chunks[0].offset == 1_000_001
    assert list(transport.get_blob(digest, len(MODEL))) == []
    with pytest.raises(InvalidRequestError):
        list(transport.get_blob(digest, len(MODEL) + 1))


def test_another_tenant_finds_nothing(publisher):
    with connected(ReleasesConfig(directory=publisher.folder), tenant="rival") as transport:
        with pytest.raises(NotFoundError):
            list(transport.get_blob(hashlib.sha256(MODEL).hexdigest(), 0))
        assert list(transport.get_blob(hashlib.sha256(b"another").hexdigest(), 0))
        with pytest.raises(NotFoundError):
            next(transport.watch_desired("cxr", 0))
        with pytest.raises(NotFoundError):
            transport.report(
                new_request_id(), Reported(channel="cxr", report_seq=1, release="", state="TRIAL")
            )


@pytest.mark.parametrize("name", ["../lock", "x.json", "1.root.json/../../lock", ""])
def test_metadata_names_stay_in_their_folder(transport, name):
    with pytest.raises(NotFoundError):
        transport.get_metadata(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"channel": "../x"},
        {"release": "A/B"},
        {"error_kind": "Free text"},
        {"latency_p95_ms": float("nan")},
        {"report_seq": 0},
        {"route_shares": (("LOCAL", 2.0),)},
    ],
)
def test_malformed_reports_are_refused(transport, changes):
    fields = {"channel": "cxr", "report_seq": 1, "release": "cxr-1", "state": "TRIAL", **changes}
    with pytest.raises(InvalidRequestError):
        transport.report(new_request_id(), Reported(**fields))


def test_watch_tells_of_a_new_version_and_ends_with_the_server(publisher):
    with connected(ReleasesConfig(directory=publisher.folder)) as transport:
        versions = transport.watch_desired("cxr", 0)
        assert next(versions) == 1
        publisher.desire("cxr-1", hold=True)
        assert next(versions) == 2
        versions.close()


def test_server_without_releases_says_so(tmp_path):
    with connected(ReleasesConfig()) as transport, pytest.raises(UnsupportedError):
        transport.get_metadata("1.root.json")


def test_dead_server_is_unavailable(tmp_path):
    transport = GrpcSyncTransport("127.0.0.1:9", insecure_loopback=True)
    with pytest.raises(UnavailableError):
        transport.get_metadata("1.root.json")
    with pytest.raises(UnavailableError):
        list(transport.get_blob("a" * 64, 0))
    transport.close()


def test_service_signs_and_looks_by_itself(tmp_path):
    from cloud_service.releases.keys import load_public_key, load_signer, make_key, sign_file
    from cloud_service.releases.publisher import (
        ReleaseRequest,
        begin_repository,
        open_repository,
        stage_release,
    )

    names = [f"{role}-{number}" for role in ("root", "targets") for number in (1, 2)]
    keys = {name: make_key(tmp_path / "holders", name) for name in names}
    folder, online = tmp_path / "repository", tmp_path / "online"
    staged = begin_repository(
        open_repository(folder, None),
        root=tuple(load_public_key(keys[name]) for name in names[:2]),
        targets=tuple(load_public_key(keys[name]) for name in names[2:]),
        online=online,
    )
    repository = open_repository(folder, online)

    def sign(path, role):
        for number in (1, 2):
            sign_file(path, load_signer(tmp_path / "holders" / f"{role}-{number}.pem"))

    sign(staged[0], "root")
    sign(staged[1], "targets")
    repository.commit()
    (tmp_path / "bundle").mkdir()
    for release in ("cxr-1", "cxr-2"):
        (tmp_path / "bundle" / "m").write_text(release)
        request = ReleaseRequest(
            release=release, bundle=tmp_path / "bundle", channels=("cxr",), fingerprint="f"
        )
        sign(stage_release(repository, request).path, "targets")
        repository.commit()
    set_channel(folder, "cxr", ("clinic",))
    store, fleet = open_fleet_store(folder), Fleet(repository)
    for release in ("cxr-1", "cxr-2"):
        policy = Policy(soak_s=0.0, steps_percent=(50.0, 100.0))
        store.run_here(lambda c, r=release, p=policy: fleet.begin(c, "cxr", r, p, actor="ann"))
    before = repository.timestamp.signed.version
    config = ReleasesConfig(
        directory=folder, online_keys=online, look_every_s=0.05, sign_every_s=0.1
    )
    with connected(config):
        deadline = time.monotonic() + 10
        while repository.desired("cxr").base != "cxr-2" and time.monotonic() < deadline:
            time.sleep(0.05)
    assert repository.desired("cxr").base == "cxr-2"  # nobody is there, so nobody objects
    assert repository.timestamp.signed.version > before
    store.close()
