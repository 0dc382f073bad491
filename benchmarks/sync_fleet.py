"""A rollout to 1,000 simulated devices: against the real fleet code, and as whole sync clients against the real service.

A release that fails on 20 % of devices must stop in the ring of 10 % or before, and every device must end on the old
release; one that fails on 2 % may be stopped in 1 % of rollouts at most. The peer is the usual rule, a percentage of the
devices that have reported, looked at after each report.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks._fleet_on_wire import roll_out_on_wire
from benchmarks.line import Line, Options
from cloud_service.fleet.device_reports import DeviceReport, record_report
from cloud_service.fleet.fleet import Fleet, Rollout, RolloutState
from cloud_service.fleet.release_service import open_fleet_store
from cloud_service.fleet.rollout import Policy, fewest_failures
from cloud_service.identity import Identity
from cloud_service.releases.keys import load_public_key, load_signer, make_key, sign_file
from cloud_service.releases.publisher import (
    ReleaseRequest,
    begin_repository,
    open_repository,
    stage_release,
)
from cloud_service.releases.repository import ReleaseRepository
from partition.release.desired import Desired, choose_release

NUM_DEVICES = 1_000
CHANNEL = "cxr"
OLD, NEW = "cxr-1", "cxr-2"
DAY_S = 86_400.0
PERCENT_RULE = (10, 0.10)  # at least ten reports, and more than a tenth of them bad
PEER = "10 % of at least 10 reports"


@dataclass
class _World:
    """A repository with two releases, the fleet's database, and the time."""

    folder: Path
    repository: ReleaseRepository
    now: float = 0.0

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.repository, now=lambda: self.now)
        self.store = open_fleet_store(self.folder)
        self.seq = 0


def run(options: Options) -> Iterator[Line]:
    """Measure whole rollouts, then the rule alone over many more."""
    runs = 3 if options.quick else 20
    tried, wrong, seconds, rates = [], 0, [], []
    memory = Path("/dev/shm")  # noqa: S108 - not the disk's speed is measured, nor its fsync
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        world = _make_world(Path(folder))
        for seed in range(runs):
            began = time.monotonic()
            num_tried, num_left, num_reports = _roll_out(world, failure_rate=0.2, seed=seed)
            seconds.append(time.monotonic() - began)
            rates.append(num_reports / seconds[-1])
            tried.append(num_tried)
            wrong += num_left
        world.store.close()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield from _on_wire(Path(folder), 200 if options.quick else NUM_DEVICES)
    yield Line(
        case=f"devices that tried a release that fails on 20 % of {NUM_DEVICES}",
        ours=float(max(tried)),
        unit="devices, most of all runs",
        runs=runs,
        less_is_better=True,
    )
    yield Line(case="devices left on the bad release", ours=float(wrong), unit="devices", runs=runs)
    yield Line(
        case="reports taken, with rings and signed documents, database in memory",
        ours=statistics.median(rates),
        unit="reports/s",
        runs=runs,
    )
    simulated = 1_000 if options.quick else 10_000
    for rate, name in (
        (0.02, "good releases stopped (2 % fail)"),
        (0.2, "bad releases stopped in 105 devices (20 % fail)"),
    ):
        ours, theirs = _simulate(rate, simulated)
        yield Line(
            case=name,
            ours=100 * ours,
            theirs=100 * theirs,
            peer=PEER,
            unit="% of rollouts",
            runs=simulated,
            less_is_better=rate < 0.1,
        )


def _on_wire(folder: Path, num_devices: int) -> Iterator[Line]:
    """Measure one rollout to whole sync clients, against a service in a process of its own."""
    world = _make_world(folder)
    try:
        found = roll_out_on_wire(
            folder,
            world.repository,
            world.store,
            online=folder / "online",
            channel=CHANNEL,
            release=NEW,
            num_devices=num_devices,
        )
    finally:
        world.store.close()
    name = f"{num_devices} clients over mutual TLS"
    for case, figure, unit in (
        ("tried a release that fails on one in five", found.num_tried, "devices"),
        ("of these failed", found.num_failed, "devices"),
        ("left on the bad release", found.num_left, "devices"),
        ("metadata of a cycle where nothing is new", found.refresh_bytes, "bytes"),
        ("first installs, one client at a time", found.cycles_per_s, "cycles/s"),
    ):
        yield Line(case=f"{name}: {case}", ours=float(figure), unit=unit, runs=1)


def _roll_out(world: _World, *, failure_rate: float, seed: int) -> tuple[int, int, int]:
    """Roll one release out; returns how many tried it, how many still run it, and the number of reports."""
    draw = random.Random(seed)  # noqa: S311
    devices = [Identity(tenant="clinic", device=f"ct-{number}") for number in range(NUM_DEVICES)]
    runs = dict.fromkeys(devices, OLD)
    failed: set[Identity] = set()
    num_reports = 0

    def report(connection: sa.Connection, device: Identity, release: str, state: str) -> None:
        nonlocal num_reports
        num_reports += 1
        world.seq += 1
        said = DeviceReport(channel=CHANNEL, report_seq=world.seq, release=release, state=state)
        record_report(connection, device, said, now=world.now)

    def settle(connection: sa.Connection) -> None:
        for device in devices:
            report(connection, device, OLD, "CONFIRMED")

    def begin(connection: sa.Connection) -> Rollout:
        return world.fleet.begin(connection, CHANNEL, NEW, Policy(), actor="benchmark")

    world.store.run_here(settle)
    world.store.run_here(begin)
    tried: set[Identity] = set()
    for _ in range(8):
        for start in range(0, NUM_DEVICES, 20):  # twenty devices come, then the service looks
            desired = world.repository.desired(CHANNEL)
            assert desired is not None

            def come(
                connection: sa.Connection,
                batch: list[Identity] = devices[start : start + 20],
                document: Desired = desired,
            ) -> None:
                for device in batch:
                    wanted = choose_release(document, f"{device.tenant}/{device.device}")
                    if wanted == runs[device] or (device in failed and wanted == NEW):
                        continue
                    if wanted == OLD:
                        runs[device] = OLD
                        report(connection, device, OLD, "CONFIRMED")
                        continue
                    tried.add(device)
                    report(connection, device, NEW, "FETCHING")
                    if draw.random() < failure_rate:
                        failed.add(device)
                        report(connection, device, NEW, "ROLLED_BACK")
                    else:
                        runs[device] = NEW
                        report(connection, device, NEW, "CONFIRMED")

            world.store.run_here(come)
            world.store.run_here(lambda connection: world.fleet.look(connection, CHANNEL))
        world.now += 1.1 * DAY_S
        world.store.run_here(lambda connection: world.fleet.look(connection, CHANNEL))
    rollout = world.store.run_here(lambda connection: world.fleet.rollout(connection, CHANNEL))
    assert rollout is not None
    if rollout.state not in (RolloutState.ABORTED, RolloutState.DONE):
        world.store.run_here(
            lambda connection: world.fleet.roll_back(connection, CHANNEL, actor="benchmark")
        )
    return len(tried), sum(release == NEW for release in runs.values()), num_reports


def _simulate(rate: float, runs: int) -> tuple[float, float]:
    """Return the share of rollouts that each rule stops, one look after each device."""
    limit = 105 if rate > 0.1 else NUM_DEVICES
    least = [fewest_failures(began, 0.02, 0.01) for began in range(limit + 1)]
    ours = theirs = 0
    for seed in range(runs):
        draw = random.Random(seed)  # noqa: S311
        failures, stopped, stopped_by_percent = 0, False, False
        for began in range(1, limit + 1):
            failures += draw.random() < rate
            needed = least[began]
            stopped |= needed is not None and failures >= needed
            stopped_by_percent |= began >= PERCENT_RULE[0] and failures > PERCENT_RULE[1] * began
        ours += stopped
        theirs += stopped_by_percent
    return ours / runs, theirs / runs


def _make_world(folder: Path) -> _World:
    repository_folder, online = folder / "repository", folder / "online"
    holders = folder / "holders"
    public = {
        role: tuple(load_public_key(make_key(holders, f"{role}-{n}")) for n in (1, 2))
        for role in ("root", "targets")
    }
    staged = begin_repository(
        open_repository(repository_folder, None),
        root=public["root"],
        targets=public["targets"],
        online=online,
    )
    repository = open_repository(repository_folder, online)

    def sign(path: Path, role: str) -> None:
        for number in (1, 2):
            sign_file(path, load_signer(holders / f"{role}-{number}.pem"))

    sign(staged[0], "root")
    sign(staged[1], "targets")
    repository.commit()
    bundle = folder / "bundle"
    bundle.mkdir()
    for release in (OLD, NEW):
        (bundle / "plan.json").write_text(release)
        request = ReleaseRequest(
            release=release, bundle=bundle, channels=(CHANNEL,), fingerprint="benchmark"
        )
        sign(stage_release(repository, request).path, "targets")
        repository.commit()
    world = _World(repository_folder, repository)
    world.store.run_here(
        lambda connection: world.fleet.begin(connection, CHANNEL, OLD, Policy(), actor="benchmark")
    )
    return world
