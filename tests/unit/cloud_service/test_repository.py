from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from cloud_service.errors import ReleaseKeyError, RepositoryError
from cloud_service.releases.keys import load_public_key, load_signer, make_key, sign_file
from cloud_service.releases.publisher import (
    begin_repository,
    days_left,
    open_repository,
    reachable_blobs,
    read_manifest,
    stage_renewal,
    stage_rotation,
)
from cloud_service.releases.roles import releases_of
from partition.errors import ManifestError
from tests.release_simulator import Publisher


@pytest.fixture
def publisher(tmp_path):
    publisher = Publisher(tmp_path)
    publisher.begin()
    return publisher


def test_ceremony_by_files_then_release(tmp_path):
    holders = tmp_path / "holders"
    names = [f"{role}-{number}" for role in ("root", "targets") for number in (1, 2, 3)]
    public = {name: load_public_key(make_key(holders, name, "secret")) for name in names}
    folder, online = tmp_path / "repository", tmp_path / "online"
    staged = begin_repository(
        open_repository(folder, None),
        root=tuple(public[f"root-{number}"] for number in (1, 2, 3)),
        targets=tuple(public[f"targets-{number}"] for number in (1, 2, 3)),
        online=online,
    )
    repository = open_repository(folder, online)
    with pytest.raises(RepositoryError, match="root version 1 has too few"):
        repository.commit()
    for path, role in zip(staged, ("root", "targets"), strict=True):
        for number in (1, 3):
            sign_file(path, load_signer(holders / f"{role}-{number}.pem", "secret"))
    assert repository.commit() == ("root", "targets")
    assert repository.read("1.root.json")
    assert repository.read("timestamp.json")
    with pytest.raises(RepositoryError, match="ceremony was held"):
        begin_repository(repository, root=(), targets=(), online=online)


def test_private_key_is_private_and_never_overwritten(tmp_path):
    make_key(tmp_path, "root-1", "secret")
    path = tmp_path / "root-1.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ReleaseKeyError, match="already"):
        make_key(tmp_path, "root-1")
    with pytest.raises(ReleaseKeyError, match="passphrase"):
        load_signer(path, "wrong")
    with pytest.raises(ReleaseKeyError, match="no public key"):
        load_public_key(path)


def test_release_needs_two_offline_signatures(publisher, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.bin").write_bytes(b"model")
    document = publisher.repository.targets
    document.signed.version += 1
    publisher.repository.stage(document)
    publisher.sign("targets", [publisher.targets[0], publisher.targets[0]])
    with pytest.raises(RepositoryError, match="too few"):
        publisher.repository.commit()
    publisher.sign("targets", [CryptoSigner.generate_ed25519()], 1)
    with pytest.raises(RepositoryError, match="too few"):
        publisher.repository.commit()
    assert publisher.repository.targets.signed.version == 1
    publisher.sign("targets", publisher.targets[1:])
    publisher.repository.commit()
    assert publisher.repository.targets.signed.version == 2


def test_published_release_is_complete_and_counters_grow(publisher):
    first = publisher.publish(
        "cxr-1", {"model.bin": b"one", "tasks/t.toml": b"x"}, golden="model.bin"
    )
    second = publisher.publish("cxr-2", {"model.bin": b"two", "tasks/t.toml": b"x"})
    assert (first.manifest.release_counter, second.manifest.release_counter) == (1, 2)
    repository = publisher.repository
    targets = repository.targets.signed
    assert set(releases_of(targets, "cxr")) == {"cxr-1", "cxr-2"}
    assert releases_of(targets, "other") == {}
    assert read_manifest(repository, targets, "cxr-2") == second.manifest
    for blob in second.manifest.blobs():
        assert repository.blob(blob.sha256).stat().st_size == blob.size_bytes
        assert blob.sha256 in reachable_blobs(repository, "cxr")
    with pytest.raises(RepositoryError, match="never changes"):
        publisher.publish("cxr-2", {"model.bin": b"three"})
    with pytest.raises(ManifestError):
        publisher.publish("cxr-3", {})


def test_delta_is_made_where_it_saves(publisher):
    old = bytes(range(256)) * 1000
    new = old[:100] + b"!" + old[101:]
    publisher.publish("cxr-1", {"model.bin": old, "small": b"a"})
    staged = publisher.publish("cxr-2", {"model.bin": new, "small": b"b"}, delta_bases=("cxr-1",))
    (delta,) = staged.manifest.deltas
    assert delta.path == "model.bin"
    assert delta.blob.size_bytes < 1000
    with pytest.raises(RepositoryError, match="no release"):
        publisher.publish("cxr-3", {"model.bin": new}, delta_bases=("cxr-0",))


def test_desired_only_names_releases_of_its_channel_and_grows(publisher):
    publisher.publish("cxr-1", {"m": b"1"})
    publisher.publish("ct-1", {"m": b"2"}, channel="ct")
    desired = publisher.desire("cxr-1")
    assert publisher.repository.desired("cxr") == desired
    with pytest.raises(RepositoryError, match="no release of cxr"):
        publisher.desire("ct-1")
    with pytest.raises(RepositoryError, match="does not follow"):
        publisher.repository.set_desired("cxr", desired)


def test_rotation_is_signed_by_old_and_new_root_keys(publisher):
    fresh = CryptoSigner.generate_ed25519()
    old = publisher.root[0].public_key.keyid
    stage_rotation(publisher.repository, "root", remove=old[:8], add=fresh.public_key)
    publisher.sign("root", [publisher.root[1], fresh])
    with pytest.raises(RepositoryError, match="too few"):
        publisher.repository.commit()  # one old key only
    publisher.sign("root", [publisher.root[2]], 1)
    publisher.repository.commit()
    assert publisher.repository.root.signed.version == 2
    with pytest.raises(RepositoryError, match="no single key"):
        stage_rotation(publisher.repository, "root", remove=old, add=None)
    with pytest.raises(RepositoryError, match="needs 1"):
        keyid = publisher.online["snapshot"].public_key.keyid
        stage_rotation(publisher.repository, "snapshot", remove=keyid, add=None)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "director"])
def test_online_key_rotation_signs_again_at_once(publisher, role):
    publisher.publish("cxr-1", {"m": b"1"})
    publisher.desire("cxr-1")
    old, fresh = publisher.online[role].public_key.keyid, CryptoSigner.generate_ed25519()
    stage_rotation(publisher.repository, role, remove=old, add=fresh.public_key)
    holder = "targets" if role == "director" else "root"
    publisher.sign(holder, publisher.targets if role == "director" else publisher.root)
    publisher.repository = type(publisher.repository)(
        publisher.folder, {**publisher.online, role: fresh}, now=lambda: publisher.now
    )
    publisher.repository.commit()
    document: Metadata = getattr(publisher.repository, role)
    assert list(document.signatures) == [fresh.public_key.keyid]


def test_refresh_moves_only_what_is_stale(publisher):
    repository = publisher.repository
    publisher.now += timedelta(hours=1)
    repository.refresh()
    assert (repository.timestamp.signed.version, repository.snapshot.signed.version) == (2, 1)
    publisher.now += timedelta(days=4)
    repository.refresh()
    assert (repository.snapshot.signed.version, repository.director.signed.version) == (2, 2)
    assert repository.timestamp.signed.expires == publisher.now + timedelta(hours=48)
    assert days_left(repository)["targets"].days == 175
    stage_renewal(repository, "targets")
    publisher.sign("targets", publisher.targets)
    repository.commit()
    assert days_left(repository)["targets"].days == 180


def test_names_outside_the_pattern_are_not_there(publisher):
    for name in ("../lock", "1.root.json/..", "/etc/passwd", "timestamp.json\n", "", "ROOT.json"):
        assert publisher.repository.read(name) is None
    for digest in ("..", "a" * 63, "A" * 64, "../metadata/timestamp.json"):
        assert publisher.repository.blob(digest) is None
