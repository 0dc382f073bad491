import random
import tempfile
from pathlib import Path

import pytest

from cloud_service.errors import RepositoryError, RolloutError
from cloud_service.fleet.channels import set_channel, tenants_of_channels
from cloud_service.fleet.device_reports import DeviceReport, record_report
from cloud_service.fleet.fleet import Fleet, RolloutState
from cloud_service.fleet.ring_rate import RingRate
from cloud_service.fleet.rollout import Action, Policy
from cloud_service.identity import Identity
from cloud_service.storage.state_store import StateStore
from partition.release.desired import choose_release
from tests.release_simulator import Publisher

HOUR = 3600.0
DEVICES = [Identity(tenant="clinic", device=f"ct-{number}") for number in range(200)]


class World:
    def __init__(self, folder):
        self.publisher = Publisher(folder)
        self.publisher.begin()
        for name in ("cxr-1", "cxr-2", "cxr-3"):
            self.publisher.publish(name, {"model": name.encode()})
        self.repository = self.publisher.repository
        self.now = 1_000_000.0
        self.fleet = Fleet(self.repository, now=lambda: self.now)
        self.store = StateStore(f"sqlite:///{folder / 'fleet.sqlite3'}")
        self.seq = 0
        self.runs = dict.fromkeys(DEVICES, "cxr-1")

    def do(self, method, *arguments, **keywords):
        function = getattr(self.fleet, method)
        return self.store.run_here(lambda connection: function(connection, *arguments, **keywords))

    def report(self, device, release, state, **fields):
        self.seq += 1
        report = DeviceReport(
            channel="cxr", report_seq=self.seq, release=release, state=state, **fields
        )
        self.record(device, report)
        return report

    def record(self, device, report):
        return self.store.run_here(
            lambda connection: record_report(connection, device, report, now=self.now)
        )

    def chosen(self, device):
        return choose_release(self.repository.desired("cxr"), f"{device.tenant}/{device.device}")

    def started(self):
        self.do("begin", "cxr", "cxr-1", Policy(), actor="ann")
        for device in DEVICES:
            self.report(device, "cxr-1", "CONFIRMED")
        return self


@pytest.fixture
def world(tmp_path):
    memory = Path("/dev/shm")  # each report is synced to the disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        world = World(Path(folder))
        yield world
        world.store.close()


def live(world, failure_rate, seed=0, rings=6):
    """Let every device follow the document, ring by ring, and report how its trial ended."""
    draw = random.Random(seed)
    failed = set()
    for _ in range(rings):
        for device in DEVICES:
            wanted = world.chosen(device)
            if wanted == world.runs[device] or device in failed:
                continue
            if wanted == "cxr-2":
                world.report(device, wanted, "FETCHING")
                if draw.random() < failure_rate:
                    failed.add(device)
                    world.report(device, wanted, "ROLLED_BACK", error_kind="trial")
                    continue
                world.report(device, wanted, "CONFIRMED")
            world.runs[device] = wanted
        world.now += 25 * HOUR
        for device in DEVICES:
            world.report(device, world.runs[device], "CONFIRMED")
        world.do("look", "cxr")


def test_good_release_reaches_everybody_ring_by_ring(world):
    world.started()
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    shares = []
    for _ in range(4):
        live(world, 0.0, rings=1)
        shares.append(sum(release == "cxr-2" for release in world.runs.values()))
    assert 5 <= shares[0] < 15
    assert 20 <= shares[1] < 35
    assert 70 < shares[2] < 130
    assert shares[3] == 200
    rollout = world.do("rollout", "cxr")
    assert rollout.state is RolloutState.DONE
    assert world.repository.desired("cxr").base == "cxr-2"
    actions = [entry["action"] for entry in world.do("status", "cxr")["audit"]]
    assert actions[:4] == ["DONE", "ADVANCE", "ADVANCE", "ADVANCE"]


def test_bad_release_stops_and_everybody_goes_back(world):
    world.started()
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    live(world, 0.5)
    assert world.do("rollout", "cxr").state is RolloutState.ABORTED
    assert set(world.runs.values()) == {"cxr-1"}
    desired = world.repository.desired("cxr")
    assert (desired.base, desired.candidate) == ("cxr-1", None)
    assert "failed" in world.do("status", "cxr")["reason"]


def test_duplicate_late_and_reordered_reports_change_no_verdict(world):
    world.started()
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    device = DEVICES[0]
    began = world.report(device, "cxr-2", "FETCHING")
    failed = world.report(device, "cxr-2", "FAILED", error_kind="gate")
    for late in (began, failed, began):
        assert world.record(device, late) == failed.report_seq
    assert world.do("status", "cxr")["verdicts"]["FAILED"] == 1
    world.report(device, "cxr-2", "CONFIRMED")
    assert world.do("status", "cxr")["verdicts"]["FAILED"] == 1


def test_offline_third_neither_stops_nor_hides_anything(world):
    world.do("begin", "cxr", "cxr-1", Policy(), actor="ann")
    for device in DEVICES:
        world.report(device, "cxr-1", "CONFIRMED")
    world.now += 24 * HOUR
    world.do("begin", "cxr", "cxr-2", Policy(steps_percent=(50.0, 100.0)), actor="ann")
    chosen = [device for device in DEVICES if world.chosen(device) == "cxr-2"]
    online = chosen[: len(chosen) * 2 // 3]
    for device in online:
        world.report(device, "cxr-2", "FETCHING")
    world.now += 25 * HOUR
    for device in online:
        world.report(device, "cxr-2", "CONFIRMED")
    assert world.do("look", "cxr").action is Action.ADVANCE


def test_hold_resume_advance_and_rollback_by_hand(world):
    world.started()
    with pytest.raises(RolloutError, match="no rollout is under way"):
        world.do("hold", "cxr", actor="ann")
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    with pytest.raises(RolloutError, match="still on its way"):
        world.do("begin", "cxr", "cxr-3", Policy(), actor="ann")
    world.do("hold", "cxr", actor="ann")
    assert world.repository.desired("cxr").hold
    assert world.do("look", "cxr").action is Action.WAIT
    world.do("resume", "cxr", actor="ann")
    assert not world.repository.desired("cxr").hold
    before = world.repository.desired("cxr")
    world.do("advance", "cxr", actor="ann")
    after = world.repository.desired("cxr")
    assert after.buckets > before.buckets
    assert after.salt == before.salt  # rings nest
    world.do("roll_back", "cxr", actor="ann")
    back = world.repository.desired("cxr")
    assert (back.base, back.candidate) == ("cxr-1", None)
    assert back.version > after.version
    world.do("roll_back", "cxr", actor="ann", to="cxr-3")
    assert world.repository.desired("cxr").base == "cxr-3"
    with pytest.raises(RolloutError, match="no release"):
        world.do("roll_back", "cxr", actor="ann", to="cxr-9")
    assert {entry["actor"] for entry in world.do("status", "cxr")["audit"]} == {"ann"}


def test_pin_survives_the_next_ring(world):
    world.started()
    world.do("pin", "cxr", "clinic/ct-3", "cxr-3", actor="ann")
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    world.do("advance", "cxr", actor="ann")
    assert world.chosen(DEVICES[3]) == "cxr-3"
    world.do("pin", "cxr", "clinic/ct-3", None, actor="ann")
    assert world.chosen(DEVICES[3]) != "cxr-3"


def test_document_is_made_to_agree_after_a_crash_in_between(world):
    world.started()
    rollout = world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    world.publisher.desire("cxr-1")  # as if the crash had come before the document was written
    assert world.repository.desired("cxr").candidate is None
    world.do("look", "cxr")
    assert world.repository.desired("cxr").candidate == rollout.release


def test_unknown_release_and_same_release_are_refused(world):
    world.started()
    with pytest.raises(RolloutError, match="publish it first"):
        world.do("begin", "cxr", "cxr-9", Policy(), actor="ann")
    with pytest.raises(RolloutError, match="already"):
        world.do("begin", "cxr", "cxr-1", Policy(), actor="ann")


def test_channels_name_their_tenants(tmp_path):
    assert tenants_of_channels(tmp_path) == {}
    set_channel(tmp_path, "cxr", ("clinic", "ward"))
    set_channel(tmp_path, "ct", ("clinic",))
    assert tenants_of_channels(tmp_path) == {"cxr": {"clinic", "ward"}, "ct": {"clinic"}}
    for channel, tenant in (("CXR", "clinic"), ("cxr", "../x")):
        with pytest.raises(RepositoryError):
            set_channel(tmp_path, channel, (tenant,))
    (tmp_path / "channels.json").write_text("{}")
    with pytest.raises(RepositoryError, match="malformed"):
        tenants_of_channels(tmp_path)


def test_one_missed_canary_stops_the_rollout_at_once(world):
    world.started()
    world.do("begin", "cxr", "cxr-2", Policy(), actor="ann")
    world.report(DEVICES[0], "cxr-2", "FETCHING")
    world.report(DEVICES[0], "cxr-2", "FAILED", error_kind="anonymizer")
    assert world.do("look", "cxr").action is Action.ABORT
    assert "identifier" in world.do("status", "cxr")["reason"]
    assert world.repository.desired("cxr").candidate is None


def test_ring_opens_at_the_rate_of_its_policy_and_stops_early(world):
    world.started()
    policy = Policy(steps_percent=(50.0, 100.0), rate=RingRate(base_per_minute=4), soak_s=0.0)
    world.do("begin", "cxr", "cxr-2", policy, actor="ann")
    chosen = []
    for minute in range(4):
        chosen.append([device for device in DEVICES if world.chosen(device) == "cxr-2"])
        assert len(chosen[-1]) == 4 * (minute + 1)
        assert set(chosen[-1]) >= set(chosen[max(0, minute - 1)])  # nested
        for device in chosen[-1]:
            world.report(device, "cxr-2", "FETCHING")
            world.report(device, "cxr-2", "CONFIRMED")
        assert world.do("look", "cxr").action is Action.WAIT  # all good, but the ring is opening
        world.now += 60
        world.do("look", "cxr")
    for device in chosen[-1][:4]:
        world.report(device, "cxr-2", "ROLLED_BACK")
    assert world.do("look", "cxr").action is Action.ABORT
    tried = {device for device in DEVICES if world.chosen(device) == "cxr-2"}
    assert not tried


def test_ring_with_a_rate_opens_whole_in_the_end(world):
    world.started()
    policy = Policy(steps_percent=(50.0, 100.0), rate=RingRate(base_per_minute=30), soak_s=0.0)
    world.do("begin", "cxr", "cxr-2", policy, actor="ann")
    live(world, 0.0, rings=6)
    assert world.do("rollout", "cxr").state is RolloutState.DONE
    assert set(world.runs.values()) == {"cxr-2"}
