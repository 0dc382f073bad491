"""Attacks on the metadata, under the headings of python-tuf's own client tests, through our transport. Accepted: none."""

import json
from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import NotReachableError, RefusedError
from edge_agent.sync.trust import TrustedRepository
from partition.release.desired import Desired
from partition.release.manifest import Blob, BundleFile, GateLimits, Manifest, ReleaseKind
from protos.errors import (
    InternalError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.metadata_forge import LATER, PAST, Forge


class Device:
    """A trusted repository with the memory that the journal gives it."""

    def __init__(self, folder, forge, root=None):
        self.folder = folder
        self.forge = forge
        self.root = root or forge.roots[0]
        self.floors = {}
        self.repository = None

    def refresh(self, disk=None):
        self.repository = TrustedRepository(
            self.folder, self.root, self.forge, channel="cxr", disk=disk or Disk()
        )
        trusted = self.repository.refresh(self.floors)
        for floor in trusted.floors:
            key = (floor.role, floor.keys)
            self.floors[key] = max(floor.version, self.floors.get(key, 0))
        return trusted

    def refused(self, kind):
        with pytest.raises(RefusedError) as caught:
            self.refresh()
        assert caught.value.kind == kind

    def version(self, role):
        path = self.folder / f"{role}.json"
        return Metadata.from_file(str(path)).signed.version if path.exists() else None


@pytest.fixture
def forge():
    return Forge()


@pytest.fixture
def device(tmp_path, forge):
    (tmp_path / "tuf").mkdir()
    return Device(tmp_path / "tuf", forge)


class TestRoot:
    def test_first_time_refresh(self, device, forge):
        forge.root.version += 1
        forge.publish_root()
        trusted = device.refresh()
        assert trusted.versions == {
            "root": 2,
            "timestamp": 1,
            "snapshot": 1,
            "targets": 1,
            "director": 1,
        }
        assert trusted.desired.base == "cxr-1"

    def test_trusted_root_missing_is_taken_from_the_program(self, device, forge):
        device.refresh()
        for path in device.folder.rglob("*"):
            if path.is_file() or path.is_symlink():
                path.unlink()
        assert device.refresh().versions["root"] == 1

    def test_trusted_root_expired(self, device, forge):
        forge.root.expires, forge.root.version = PAST, 2
        forge.publish_root()
        device.refused("freeze")
        assert device.version("root") == 2
        forge.root.expires, forge.root.version = LATER, 3
        forge.publish_root()
        assert device.refresh().versions["root"] == 3

    def test_trusted_root_unsigned(self, tmp_path, forge):
        metadata = Metadata.from_bytes(forge.roots[0])
        metadata.signatures.clear()
        Device(tmp_path, forge, metadata.to_bytes()).refused("bad_signature")

    def test_max_root_rotations(self, device, forge):
        for _ in range(300):
            forge.root.version += 1
            forge.publish_root()
        assert device.refresh().versions["root"] == 257
        asked = [name for name in forge.asked if name.endswith("root.json")]
        assert len(asked) == 256  # counted from the program's own root: an endless chain ends

    def test_intermediate_root_incorrectly_signed(self, device, forge):
        signers, forge.signers["root"] = forge.signers["root"], []
        forge.root.version += 1
        forge.publish_root()
        forge.signers["root"] = signers
        forge.root.version += 1
        forge.publish_root()
        device.refused("bad_signature")
        assert device.version("root") == 1

    def test_intermediate_root_expired(self, device, forge):
        for expires in (PAST, LATER):
            forge.root.expires = expires
            forge.root.version += 1
            forge.publish_root()
        assert device.refresh().versions["root"] == 3

    def test_final_root_incorrectly_signed(self, device, forge):
        forge.signers["root"] = [CryptoSigner.generate_ed25519()]
        forge.root.version += 1
        forge.publish_root()
        device.refused("bad_signature")
        assert device.version("root") == 1

    def test_new_root_signed_by_its_own_new_key_only(self, device, forge):
        forge.rotate("root")
        forge.root.version += 1
        forge.publish_root()
        device.refused("bad_signature")
        assert device.version("root") == 1

    def test_new_root_same_version(self, device, forge):
        forge.publish_root()
        device.refused("rollback")
        assert device.version("root") == 1

    def test_new_root_nonconsecutive_version(self, device, forge):
        forge.root.version += 2
        forge.publish_root()
        device.refused("rollback")
        assert device.version("root") == 1

    def test_final_root_expired(self, device, forge):
        forge.root.expires, forge.root.version = PAST, 2
        forge.publish_root()
        device.refused("freeze")
        assert device.version("timestamp") is None

    def test_root_withheld_after_it_was_seen(self, device, forge):
        forge.root.version += 1
        forge.publish_root()
        device.refresh()
        forge.roots.pop()
        assert device.refresh().versions["root"] == 2  # the local history still proves it


class TestTimestamp:
    def test_new_timestamp_unsigned(self, device, forge):
        forge.signers["timestamp"] = []
        device.refused("bad_signature")
        assert device.version("timestamp") is None

    def test_new_timestamp_version_rollback(self, device, forge):
        forge.timestamp.version = 2
        device.refresh()
        forge.timestamp.version = 1
        device.refused("rollback")
        assert device.version("timestamp") == 2

    def test_new_timestamp_snapshot_rollback(self, device, forge):
        forge.snapshot.version = 2
        forge.update_timestamp()
        device.refresh()
        forge.timestamp.snapshot_meta.version = 1
        forge.timestamp.version += 1
        device.refused("rollback")
        assert device.version("timestamp") == 2

    def test_new_timestamp_expired(self, device, forge):
        forge.timestamp.expires = PAST
        device.refused("freeze")
        assert device.version("snapshot") is None

    def test_new_timestamp_fast_forward_recovery(self, device, forge):
        forge.timestamp.version = 99999
        device.refresh()
        forge.rotate("timestamp")
        forge.root.version += 1
        forge.publish_root()
        forge.timestamp.version = 1
        assert device.refresh().versions["timestamp"] == 1

    def test_timestamp_eq_versions_check(self, device, forge):
        device.refresh()
        before = (device.folder / "timestamp.json").read_bytes()
        forge.timestamp.snapshot_meta.version = 100
        device.refresh()
        assert (device.folder / "timestamp.json").read_bytes() == before


class TestSnapshot:
    def test_new_snapshot_hash_mismatch(self, device, forge):
        forge.with_hashes = True
        forge.update_timestamp()
        device.refresh()
        forge.snapshot.version += 1
        forge.update_timestamp()
        forge.snapshot.expires += timedelta(days=1)
        device.refused("mix_and_match")
        assert device.version("snapshot") == 1

    def test_new_snapshot_unsigned(self, device, forge):
        forge.signers["snapshot"] = []
        device.refused("bad_signature")
        assert device.version("snapshot") is None

    def test_new_snapshot_version_mismatch(self, device, forge):
        forge.snapshot.version += 1  # timestamp still names the one before
        device.refused("rollback")
        assert device.version("snapshot") is None

    def test_new_snapshot_version_rollback(self, device, forge):
        forge.snapshot.version = 2
        forge.update_timestamp()
        device.refresh()
        forge.snapshot.version = 1
        forge.update_timestamp()
        device.refused("rollback")
        assert device.version("snapshot") == 2

    def test_new_snapshot_fast_forward_recovery(self, device, forge):
        forge.snapshot.version = 99999
        forge.update_timestamp()
        device.refresh()
        forge.rotate("snapshot")
        forge.rotate("timestamp")
        forge.root.version += 1
        forge.publish_root()
        forge.snapshot.version = 1
        forge.update_timestamp()
        assert device.refresh().versions["snapshot"] == 1

    def test_new_snapshot_expired(self, device, forge):
        forge.snapshot.expires = PAST
        forge.update_snapshot()
        device.refused("freeze")
        assert device.version("snapshot") is None

    def test_snapshot_rollback_with_local_snapshot_hash_mismatch(self, device, forge):
        forge.with_hashes = True
        forge.targets.version = 2
        forge.update_snapshot()
        device.refresh()
        forge.targets.version = 1  # an older targets under a newer snapshot
        forge.update_snapshot()
        device.refused("rollback")
        assert device.version("targets") == 2

    def test_snapshot_that_forgets_a_role(self, device, forge):
        device.refresh()
        del forge.snapshot.meta["director.json"]
        forge.snapshot.version += 1
        forge.update_timestamp()
        device.refused("bad_metadata")


class TestTargets:
    def test_new_targets_hash_mismatch(self, device, forge):
        forge.with_hashes = True
        forge.update_snapshot()
        device.refresh()
        forge.targets.version += 1
        forge.update_snapshot()
        forge.targets.expires += timedelta(days=1)
        device.refused("mix_and_match")
        assert device.version("targets") == 1

    def test_new_targets_unsigned(self, device, forge):
        forge.signers["targets"] = []
        device.refused("bad_signature")
        assert device.version("targets") is None

    def test_new_targets_version_mismatch(self, device, forge):
        forge.targets.version += 1
        device.refused("rollback")
        assert device.version("targets") is None

    def test_new_targets_version_rollback(self, device, forge):
        forge.targets.version = 2
        forge.update_snapshot()
        device.refresh()
        forge.targets.version = 1
        forge.update_snapshot()
        device.refused("rollback")
        assert device.version("targets") == 2

    def test_new_targets_fast_forward_recovery(self, device, forge):
        forge.targets.version = 99999
        forge.update_snapshot()
        device.refresh()
        for role in ("targets", "snapshot", "timestamp"):
            forge.rotate(role)
        forge.root.version += 1
        forge.publish_root()
        forge.targets.version = 1
        forge.update_snapshot()
        assert device.refresh().versions["targets"] == 1

    def test_new_targets_expired(self, device, forge):
        forge.targets.expires = PAST
        forge.update_snapshot()
        device.refused("freeze")
        assert device.version("targets") is None

    def test_compute_metafile_hashes_length(self, device, forge):
        forge.with_hashes = True
        forge.update_snapshot()
        device.refresh()
        forge.with_hashes = False
        forge.update_snapshot()
        assert device.refresh().versions["timestamp"] == 3


class TestDirector:
    def test_unsigned_director(self, device, forge):
        forge.signers["director"] = []
        device.refused("bad_signature")

    def test_director_expired(self, device, forge):
        forge.director.expires = PAST
        device.refused("freeze")

    def test_director_version_rollback(self, device, forge):
        forge.director.version = 2
        forge.update_snapshot()
        device.refresh()
        forge.director.version = 1
        forge.update_snapshot()
        device.refused("rollback")

    def test_director_cannot_make_a_release(self, device, forge):
        data = a_manifest("evil-1").to_bytes()
        forge.add_target(forge.director, "releases/evil-1/manifest.json", data, CUSTOM)
        forge.director.version += 1
        forge.update_snapshot()
        device.refresh()
        with pytest.raises(RefusedError, match="no signed release"):
            device.repository.release("evil-1")

    def test_targets_key_cannot_be_the_directors(self, device, forge):
        forge.signers["targets"] = forge.signers["director"]
        device.refused("bad_signature")

    def test_director_key_rotation_by_targets(self, device, forge):
        forge.director.version = 99999
        forge.update_snapshot()
        device.refresh()
        fresh = CryptoSigner.generate_ed25519()
        forge.targets.revoke_key(forge.signers["director"][0].public_key.keyid, "director")
        forge.targets.add_key(fresh.public_key, "director")
        forge.signers["director"] = [fresh]
        forge.targets.version += 1
        forge.director.version = 1
        for role in ("snapshot", "timestamp"):  # the snapshot remembers 99999 too
            forge.rotate(role)
        forge.root.version += 1
        forge.publish_root()
        forge.update_snapshot()
        assert device.refresh().versions["director"] == 1

    def test_nobody_named_this_channel(self, device, forge):
        forge.director.targets.clear()
        device.refused("not_for_us")

    def test_malformed_document(self, device, forge):
        forge.add_target(forge.director, "desired/cxr.json", b'{"schema": 1}')
        device.refused("bad_manifest")


CUSTOM = {"release_counter": 1, "min_release_counter": 0, "channels": ["cxr"]}


def a_manifest(release="cxr-1", counter=1):
    blob = Blob(sha256="a" * 64, size_bytes=3, parts=("a" * 64,))
    return Manifest(
        release=release,
        release_counter=counter,
        kind=ReleaseKind.FULL,
        base_release=None,
        min_runtime="0.1.0",
        fingerprint="f",
        files=(BundleFile(path="model.bin", blob=blob),),
        deltas=(),
        golden=None,
        gate=GateLimits(),
    )


class TestRelease:
    @pytest.fixture(autouse=True)
    def _published(self, forge):
        self.target = forge.add_target(
            forge.targets, "releases/cxr-1/manifest.json", a_manifest().to_bytes(), dict(CUSTOM)
        )

    def test_signed_release_is_read(self, device):
        device.refresh()
        assert device.repository.release("cxr-1").manifest == a_manifest()

    @pytest.mark.parametrize(
        "custom", [None, {}, {**CUSTOM, "channels": ["ct"]}, {**CUSTOM, "release_counter": "1"}]
    )
    def test_release_of_another_channel_or_of_none(self, device, forge, custom):
        self.target.unrecognized_fields["custom"] = custom
        device.refresh()
        with pytest.raises(RefusedError) as caught:
            device.repository.release("cxr-1")
        assert caught.value.kind == "not_for_us"

    def test_release_under_another_name(self, device, forge):
        forge.add_target(
            forge.targets, "releases/cxr-2/manifest.json", a_manifest().to_bytes(), dict(CUSTOM)
        )
        device.refresh()
        with pytest.raises(RefusedError) as caught:
            device.repository.release("cxr-2")
        assert caught.value.kind == "mix_and_match"

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            (lambda data: data[:-1], "mix_and_match"),
            (lambda data: data + b" ", "endless_data"),
            (lambda data: data[:50] + b"#" + data[51:], "mix_and_match"),
        ],
    )
    def test_manifest_that_is_not_what_was_signed(self, device, forge, change, kind):
        device.refresh()
        digest = self.target.hashes["sha256"]
        forge.blobs[digest] = change(forge.blobs[digest])
        with pytest.raises(RefusedError) as caught:
            device.repository.release("cxr-1")
        assert caught.value.kind == kind

    def test_highest_floor_of_the_channel_counts(self, device, forge):
        for number, floor, channel in ((2, 7, "cxr"), (3, 9, "ct")):
            custom = {
                "release_counter": number,
                "min_release_counter": floor,
                "channels": [channel],
            }
            path = f"releases/x-{number}/manifest.json"
            forge.add_target(
                forge.targets, path, a_manifest(f"x-{number}", number).to_bytes(), custom
            )
        assert device.refresh().min_release_counter == 7


class TestTraps:
    @pytest.mark.parametrize(
        "error",
        [
            PermissionDeniedError("no"),
            UnauthenticatedError("no"),
            UnavailableError("no"),
            InternalError("no"),
        ],
    )
    @pytest.mark.parametrize("name", ["2.root.json", "timestamp.json", "1.director.json"])
    def test_only_not_found_means_no_newer_root(self, device, forge, error, name):
        forge.overrides[name] = error
        with pytest.raises(NotReachableError):
            device.refresh()

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("2.root.json", 512_001),
            ("timestamp.json", 16_385),
            ("1.snapshot.json", 2_000_001),
            ("1.targets.json", 5_000_001),
        ],
    )
    def test_endless_metadata(self, device, forge, name, size):
        forge.overrides[name] = b" " * size
        device.refused("endless_data")

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"signed": 1, "signatures": []}']
    )
    @pytest.mark.parametrize(
        "name", ["2.root.json", "timestamp.json", "1.targets.json", "1.director.json"]
    )
    def test_malformed_metadata(self, device, forge, name, content):
        forge.overrides[name] = content
        device.refused("bad_metadata")

    def test_lost_memory_does_not_accept_older_versions(self, device, forge):
        forge.timestamp.version = 5
        device.refresh()
        for path in device.folder.glob("*.json"):
            path.unlink()  # a power cut, or somebody who wiped the folder
        forge.timestamp.version = 4
        device.refused("rollback")
        forge.timestamp.version = 6
        assert device.refresh().versions["timestamp"] == 6

    def test_empty_files_after_a_power_cut_are_fetched_again(self, device, forge):
        device.refresh()
        for role in ("timestamp", "snapshot", "targets", "director"):
            (device.folder / f"{role}.json").write_bytes(b"")
        assert device.refresh().versions["targets"] == 1

    def test_left_over_temporary_files_are_deleted(self, device):
        (device.folder / "tmpabc").write_bytes(b"torn")
        device.refresh()
        assert not (device.folder / "tmpabc").exists()

    def test_every_metadata_file_is_synced_after_a_refresh(self, device):
        class Noting(Disk):
            def __init__(self):
                self.synced = []

            def sync_file(self, path):
                self.synced.append(path.name)
                super().sync_file(path)

            def sync_folder(self, path):
                self.synced.append(path.name)
                super().sync_folder(path)

        disk = Noting()
        device.refresh(disk)
        roles = ["timestamp.json", "snapshot.json", "targets.json", "director.json"]
        assert {*roles, "1.root.json", "root_history", "tuf"} <= set(disk.synced)

    def test_nothing_new_asks_for_two_small_files(self, device, forge):
        device.refresh()
        forge.asked.clear()
        device.refresh()
        assert forge.asked == ["2.root.json", "timestamp.json"]
        assert len(json.dumps(forge.get_metadata("timestamp.json").decode())) < 1024

    def test_desired_document_is_followed(self, device, forge):
        device.refresh()
        forge.desire(Desired(version=2, salt="s", base="cxr-0"))
        forge.director.version += 1
        forge.update_snapshot()
        assert device.refresh().desired.base == "cxr-0"
