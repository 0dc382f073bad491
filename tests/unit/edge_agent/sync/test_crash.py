"""A crash or power cut at every step of an install: the old release or the new one starts, whole, and the next run converges."""

import hashlib
import shutil

import pytest

from edge_agent.sync.boot import start
from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.gate import GateVerdict
from edge_agent.sync.journal import Journal
from edge_agent.sync.records import State
from edge_agent.sync.store import ReleaseStore
from partition.release.manifest import PART_BYTES
from tests.power_model import PowerModel
from tests.sync_simulators import StoppedError, StoppingDisk
from tests.sync_world import begin_update, install_and_confirm


@pytest.fixture
def updating(world):
    """A device on cxr-1 that shall update to cxr-2."""
    return begin_update(world)


def assert_starts_whole(folder):
    boot = start(folder)
    assert boot.may_update
    assert boot.release in ("cxr-1", "cxr-2")
    store = ReleaseStore(folder, Disk())
    assert store.verify(boot.release)
    assert store.current == boot.release
    return boot.release


def assert_converges(world, folder):
    client = world.device(folder=folder)
    try:
        result = client.run_cycle()
        assert result.running == "cxr-2", result
        client.observe(seconds=2000, answers=50)
        client.run_cycle()
        client.journal.check_integrity()
        assert client.journal.record("cxr-2").state is State.CONFIRMED
        assert client.store.verify("cxr-2")
        assert client.store.verify(client.journal.running.previous)
    finally:
        client.close()


def test_kill_at_every_step(updating, tmp_path):
    counting = StoppingDisk()
    shutil.copytree(updating.folder, tmp_path / "whole", symlinks=True)
    before = updating.cloud.sent_bytes
    install_and_confirm(updating, tmp_path / "whole", counting)
    needed = updating.cloud.sent_bytes - before
    assert counting.steps > 60
    print(f"steps at which the install was killed: {counting.steps}")
    for step in range(counting.steps):
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(updating.folder, folder, symlinks=True)
        before = updating.cloud.sent_bytes
        with pytest.raises(StoppedError):
            install_and_confirm(updating, folder, StoppingDisk(step))
        assert_starts_whole(folder)
        assert_converges(updating, folder)
        # The manifest and the channel's document are small and fetched anew.
        assert updating.cloud.sent_bytes - before <= needed + PART_BYTES + 8192
        shutil.rmtree(folder)


def test_kill_at_every_step_of_going_back(updating, tmp_path):
    install_and_confirm(updating, updating.folder, Disk())
    for step in range(20):
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(updating.folder, folder, symlinks=True)
        client = updating.device(folder=folder)
        client.store._disk = client.journal._disk = StoppingDisk(step)
        try:
            client.roll_back()
        except StoppedError:
            pass
        else:
            assert step > 3
            break
        finally:
            client.close()
        assert_starts_whole(folder)
    else:
        pytest.fail("going back takes more steps than were tried")


def test_kill_at_every_step_of_a_start_on_trial(updating, tmp_path):
    client = updating.device()
    client.run_cycle()
    client.close()
    for step in range(10):
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(updating.folder, folder, symlinks=True)
        (folder / "current").unlink()
        for _ in range(10):
            with_stop = StoppingDisk(step)
            try:
                start(folder, with_stop)
            except StoppedError:
                continue
        assert_starts_whole(folder)


def cuts_of_an_install(world, folder, **options):
    shutil.copytree(world.folder, folder, symlinks=True)
    disk = PowerModel(folder, **options)
    install_and_confirm(world, folder, disk)
    disk.take()
    return disk.snapshots


def violation(snapshot, folder, is_last):
    """Return what is wrong with a disk after a power cut, or None."""
    snapshot.restore(folder)
    link = ReleaseStore(folder, Disk()).current
    try:
        boot = start(folder)
        store = ReleaseStore(folder, Disk())
        if boot.release not in ("cxr-1", "cxr-2") or not store.verify(boot.release):
            return "does not start whole"
        for path in folder.glob("blobs/*"):
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
                return "a blob is torn"
        return (
            _journal_violation(store, folder, boot.release)
            or _broken_promise(snapshot, folder)
            or ("the link is behind" if is_last and link != boot.release else None)
        )
    finally:
        shutil.rmtree(folder)


def _journal_violation(store, folder, started):
    journal = Journal(folder / "sync.db", Disk())
    try:
        journal.check_integrity()
        if journal.running.release != started:
            return "starts something else than the journal says"
        for record in journal.records():
            if record.error_kind:
                return f"{record.release} was given up: {record.error_kind}"
            if record.state in (State.FETCHING, State.FAILED):
                continue
            if not store.verify(record.release):
                return f"{record.release} is {record.state} and not whole"
            for file in store.manifest(record.release).files:
                if not store.has_blob(file.blob.sha256):
                    return "a blob of a release is gone"
    finally:
        journal.close()
    return None


def _broken_promise(snapshot, folder):
    """What a commit said, and the cycle went on from, must be remembered: a verdict, a trial, a confirmation."""
    journal = Journal(folder / "sync.db", Disk())
    try:
        record = journal.record("cxr-2")
        found = record.state if record is not None else ""
        return None if found == snapshot.promised else f"forgot that cxr-2 was {snapshot.promised}"
    finally:
        journal.close()


def test_power_cut_at_every_step(updating, tmp_path):
    snapshots = cuts_of_an_install(updating, tmp_path / "cut")
    assert len(snapshots) > 150
    for number, snapshot in enumerate(snapshots):
        is_last = snapshot.step == snapshots[-1].step
        found = violation(snapshot, tmp_path / "after", is_last)
        assert found is None, (snapshot.step, found)
        if number % 4 == 0:
            snapshot.restore(tmp_path / "goes-on")
            assert_converges(updating, tmp_path / "goes-on")
            shutil.rmtree(tmp_path / "goes-on")


SYNCS = {
    "F1": lambda method, path: method == "sync_file" and path.startswith("staging/"),
    "F2": lambda method, path: (method, path) == ("sync_folder", "blobs"),
    "F3": lambda method, path: method == "sync_folder" and path.startswith("releases/"),
    "F4": lambda method, path: (method, path) == ("sync_folder", "releases"),
    "F5": lambda method, path: (method, path) == ("commit", State.GATED),
    "F6": lambda method, path: (method, path) == ("commit", State.TRIAL),
    "F7": lambda method, path: (method, path) == ("sync_folder", "."),
    "F8": lambda method, path: (method, path) == ("commit", State.CONFIRMED),
}


@pytest.mark.parametrize("name", SYNCS)
def test_each_sync_is_needed(updating, tmp_path, name):
    snapshots = cuts_of_an_install(updating, tmp_path / "cut", skips=SYNCS[name])
    found = {
        violation(snapshot, tmp_path / "after", snapshot.step == snapshots[-1].step)
        for snapshot in reversed(snapshots)
    }
    assert found != {None}, f"without {name} nothing goes wrong: the model does not see it"


class Forgetful(Disk):
    """Leaves out the commit that would bring a release into a state, as if it were not in the code."""

    def __init__(self, state):
        self.state = state
        self.was_left_out = False

    def commit(self, connection):
        row = connection.execute(
            "SELECT state FROM releases WHERE release = 'cxr-2'", ()
        ).fetchone()
        if not self.was_left_out and row is not None and row[0] == self.state:
            self.was_left_out = True
            connection.rollback()
        else:
            super().commit(connection)


COMMITS = {"F5": State.GATED, "F6": State.TRIAL, "F8": State.CONFIRMED}


@pytest.mark.parametrize("name", COMMITS)
def test_each_commit_is_needed(updating, tmp_path, name):
    """Without it the update fails, or another state is reached than with it."""
    folder = tmp_path / "copy"
    shutil.copytree(updating.folder, folder, symlinks=True)
    disk = Forgetful(COMMITS[name])
    try:
        install_and_confirm(updating, folder, disk)
    except (SyncFolderError, AssertionError):
        found = None
    else:
        client = updating.device(folder=folder)
        found = client.journal.record("cxr-2").state
        client.close()
    assert disk.was_left_out
    assert found is not State.CONFIRMED
    assert_starts_whole(folder)
    assert_converges(updating, folder)


def test_failed_gate_survives_a_power_cut(updating, tmp_path):
    """F5 of a release that fails: its verdict is durable before anything else happens."""
    updating.gate.says = lambda folder, manifest: GateVerdict(passed=False, reason="it is worse")
    folder = tmp_path / "copy"
    shutil.copytree(updating.folder, folder, symlinks=True)
    disk = PowerModel(folder)
    client = updating.device(folder=folder, disk=disk)
    assert client.run_cycle().error_kind == "gate"
    client.close()
    disk.take()
    failed = [snapshot for snapshot in disk.snapshots if snapshot.promised == State.FAILED]
    assert failed
    for snapshot in failed:
        snapshot.restore(tmp_path / "after")
        assert start(tmp_path / "after").release == "cxr-1"
        client = updating.device(folder=tmp_path / "after")
        updating.gate.checked.clear()
        assert client.run_cycle().error_kind == "gate"
        assert updating.gate.checked == []  # nor gated, nor fetched, again
        client.close()
        shutil.rmtree(tmp_path / "after")
