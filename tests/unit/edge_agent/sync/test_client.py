"""What a device does with releases: installs, tries, confirms, goes back, and refuses."""

from datetime import timedelta

import pytest

from edge_agent.sync.boot import start
from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.gate import GateVerdict
from edge_agent.sync.records import State
from partition.release.manifest import PART_BYTES

MODEL = bytes(range(256)) * 8192  # two parts
EDITED = MODEL[:1000] + b"!" + MODEL[1001:]


def test_release_is_installed_tried_and_confirmed(world):
    world.release("cxr-1", MODEL)
    client = world.device()
    result = client.run_cycle()
    assert (result.running, result.state, result.changed) == ("cxr-1", State.TRIAL, True)
    assert client.store.verify("cxr-1")
    assert client.store.current == "cxr-1"
    boot = start(world.folder)
    assert (boot.release, boot.on_trial) == ("cxr-1", True)
    assert (boot.folder / "model.bin").read_bytes() == MODEL
    assert client.observe(seconds=10, answers=3) == State.TRIAL
    assert client.observe(seconds=70, answers=3) == State.TRIAL
    assert client.observe(seconds=2000, answers=3) == State.CONFIRMED
    assert world.gate.checked == ["cxr-1"] * 3  # gate, after a minute, at the end
    assert client.run_cycle().changed is False
    states = [reported.state for _, reported in world.cloud.reports]
    assert states == ["FETCHING", "TRIAL", "CONFIRMED"]
    client.journal.check_integrity()


def test_trial_needs_time_and_answers_and_no_network(world):
    world.release("cxr-1", MODEL)
    client = world.device()
    client.run_cycle()
    world.cloud.is_reachable = False
    assert client.observe(seconds=5000, answers=4) == State.TRIAL
    assert client.observe(seconds=1, answers=1) == State.CONFIRMED
    assert client.run_cycle().error_kind == "unreachable"
    assert start(world.folder).release == "cxr-1"
    world.cloud.is_reachable = True
    client.reports.deliver()
    assert world.cloud.reports[-1][1].state == "CONFIRMED"


def test_delta_is_used_and_only_new_files_travel(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", EDITED, delta_bases=("cxr-1",))
    before = world.cloud.sent_bytes
    result = client.run_cycle()
    assert result.running == "cxr-2"
    assert client.store.verify("cxr-2")
    assert world.cloud.sent_bytes - before < 4000
    assert result.fetched_bytes < 1000


def test_delta_from_the_factory_file(world, tmp_path):
    world.publisher.publish("cxr-0", {"model.bin": MODEL})
    world.release("cxr-1", EDITED, delta_bases=("cxr-0",))
    factory = tmp_path / "factory.bin"
    factory.write_bytes(MODEL)
    digest = world.publisher.repository.add_blob(MODEL)
    client = world.device(factory_files={digest: factory})
    assert client.run_cycle().fetched_bytes < 2000
    assert client.store.verify("cxr-1")


def test_without_the_base_of_its_delta_a_file_is_fetched_whole(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", EDITED, delta_bases=("cxr-1",))
    client.store.blob(client.store.manifest("cxr-1").file("model.bin").blob.sha256).unlink()
    assert client.run_cycle().fetched_bytes >= len(EDITED)
    assert client.store.verify("cxr-2")


def test_worse_release_never_runs_and_is_not_tried_again(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", b"is worse" + MODEL)
    result = client.run_cycle()
    assert (result.running, result.error_kind) == ("cxr-1", "gate")
    assert world.cloud.reports[-1][1].state == "FAILED"
    assert world.cloud.reports[-1][1].release == "cxr-2"
    checks = len(world.gate.checked)
    assert client.run_cycle().error_kind == "gate"
    assert len(world.gate.checked) == checks
    assert not client.store.release("cxr-2").exists()
    world.publisher.desire("cxr-2", retry_epoch=1)
    assert client.run_cycle().error_kind == "gate"
    assert len(world.gate.checked) > checks
    assert start(world.folder).release == "cxr-1"


def test_release_that_crashes_is_left_after_three_starts(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", EDITED)
    client.run_cycle()
    assert [start(world.folder).release for _ in range(5)] == ["cxr-2"] * 3 + ["cxr-1"] * 2
    assert client.journal.record("cxr-2").error_kind == "crash"
    assert client.store.current == "cxr-1"
    assert client.run_cycle().error_kind == "crash"
    assert world.cloud.reports[-1][1].state == "ROLLED_BACK"
    client.journal.check_integrity()


def test_release_that_becomes_worse_in_its_trial_goes_back(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", EDITED)
    client.run_cycle()
    world.gate.says = lambda folder, manifest: GateVerdict(passed=False, reason="slow")
    assert client.observe(seconds=61, answers=1) == State.ROLLED_BACK
    assert client.journal.running.release == "cxr-1"
    assert world.cloud.reports[-1][1].error_kind == "trial"


def test_first_release_goes_back_to_the_factory_model(world):
    world.release("cxr-1", MODEL)
    client = world.device()
    client.run_cycle()
    assert client.roll_back().release is None
    assert start(world.folder).release is None
    assert client.store.current is None
    with pytest.raises(SyncFolderError, match="nothing before it"):
        client.roll_back()


def test_operator_goes_back_and_stays_back(world):
    client = world.confirmed("cxr-1", MODEL)
    world.confirmed("cxr-2", EDITED, client)
    world.cloud.is_reachable = False
    assert client.roll_back().release == "cxr-1"
    world.cloud.is_reachable = True
    assert client.run_cycle().running == "cxr-1"
    world.publisher.desire("cxr-2", retry_epoch=1)
    assert client.run_cycle().running == "cxr-2"
    client.roll_back()
    assert client.run_cycle().running == "cxr-1"
    client.journal.check_integrity()


def test_fleet_goes_back_by_a_higher_version_without_a_gate(world):
    client = world.confirmed("cxr-1", MODEL)
    world.confirmed("cxr-2", EDITED, client)
    world.publisher.desire("cxr-1")
    checks = len(world.gate.checked)
    result = client.run_cycle()
    assert (result.running, result.state) == ("cxr-1", State.CONFIRMED)
    assert len(world.gate.checked) == checks
    client.journal.check_integrity()


def test_hold_begins_nothing(world):
    client = world.confirmed("cxr-1", MODEL)
    world.publisher.publish("cxr-2", {"model.bin": EDITED})
    world.publisher.desire("cxr-2", hold=True)
    assert client.run_cycle().running == "cxr-1"
    assert client.journal.record("cxr-2") is None


def test_floor_shuts_out_an_old_release_but_leaves_a_way_back(world):
    world.publisher.publish("cxr-1", {"model.bin": MODEL})
    client = world.confirmed("cxr-2", MODEL + b"2")
    world.release("cxr-3", MODEL + b"3", min_release_counter=3)
    assert client.run_cycle().running == "cxr-3"
    assert client.roll_back().release == "cxr-2"  # confirmed here, and cxr-3 was not
    world.publisher.desire("cxr-1")
    assert client.run_cycle().error_kind == "rollback"
    world.publisher.desire("cxr-3", retry_epoch=1)
    client.run_cycle()
    assert client.observe(seconds=2000, answers=50) == State.CONFIRMED
    world.publisher.desire("cxr-2")
    result = client.run_cycle()
    assert (result.running, result.error_kind) == ("cxr-3", "rollback")


def test_other_runtime_and_other_channel(world):
    client = world.confirmed("cxr-1", MODEL)
    world.release("cxr-2", EDITED, min_runtime="9.0.0")
    assert client.run_cycle().error_kind == "runtime_too_old"
    assert client.journal.running.release == "cxr-1"


class TestClock:
    def test_expired_metadata_stops_installing_never_answering(self, world):
        client = world.confirmed("cxr-1", MODEL)
        world.publisher.now -= timedelta(days=10)
        world.release("cxr-2", EDITED)
        assert client.run_cycle().error_kind == "freeze"
        assert start(world.folder).release == "cxr-1"
        world.publisher.now += timedelta(days=10)
        world.publisher.repository.refresh()
        world.publisher.desire("cxr-2")
        assert client.run_cycle().running == "cxr-2"

    def test_clock_in_1970_installs_nothing_until_it_is_set(self, world):
        client = world.confirmed("cxr-1", MODEL)
        world.release("cxr-2", EDITED)
        early = world.device(now=lambda: 100.0)
        assert early.run_cycle().error_kind == "clock_back"
        assert start(world.folder).release == "cxr-1"
        assert client.run_cycle().running == "cxr-2"


class TestFolder:
    def test_two_updaters_at_once(self, world):
        world.release("cxr-1", MODEL)
        one, two = world.device(), world.device()
        with one.store.locked(), pytest.raises(SyncFolderError, match="another update"):
            two.run_cycle()
        assert two.run_cycle().running == "cxr-1"

    def test_unreadable_journal_runs_by_the_link_and_refuses_updates(self, world):
        world.confirmed("cxr-1", MODEL).close()
        for path in world.folder.glob("sync.db*"):
            path.write_bytes(b"no database, that is all" * 200)
        boot = start(world.folder)
        assert (boot.release, boot.may_update) == ("cxr-1", False)
        with pytest.raises(SyncFolderError, match="journal cannot be used"):
            world.device()

    def test_no_space_is_found_before_anything_is_fetched(self, world):
        world.release("cxr-1", MODEL)
        client = world.device()
        with pytest.raises(Exception, match="free some space"):
            client.store.check_space(1 << 60)

    def test_disk_full_in_the_middle(self, world):
        world.release("cxr-1", MODEL)

        class Full(type(world.device()._disk)):
            def write(self, path, data, at=0):
                if at >= PART_BYTES:
                    raise OSError(28, "No space left on device")
                super().write(path, data, at)

        client = world.device(disk=Full())
        assert client.run_cycle().error_kind == "folder"
        assert start(world.folder).release is None
        assert world.device().run_cycle().running == "cxr-1"

    def test_old_releases_are_collected_and_the_way_back_is_kept(self, world):
        client = world.confirmed("cxr-1", b"1" + MODEL)
        world.confirmed("cxr-2", b"2" + MODEL, client)
        world.confirmed("cxr-3", b"3" + MODEL, client)
        client.run_cycle()
        assert sorted(path.name for path in world.folder.glob("releases/*")) == ["cxr-2", "cxr-3"]
        needed = {
            file.blob.sha256
            for name in ("cxr-2", "cxr-3")
            for file in client.store.manifest(name).files
        }
        assert {path.name for path in world.folder.glob("blobs/*")} == needed
        assert client.roll_back().release == "cxr-2"
        assert client.store.verify("cxr-2")

    def test_missing_file_of_the_running_release_goes_back(self, world):
        client = world.confirmed("cxr-1", b"1" + MODEL)
        world.confirmed("cxr-2", b"2" + MODEL, client)
        (client.store.release("cxr-2") / "model.bin").unlink()
        assert start(world.folder).release == "cxr-1"
