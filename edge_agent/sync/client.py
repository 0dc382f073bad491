"""The update cycle: ask, verify, fetch, assemble, gate, try; each step durable before the next begins.

Nothing here answers requests. The device answers with what :func:`edge_agent.sync.boot.start` chose, for ever if need be:
expired metadata and a dead network stop installing, never answering.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.cloud.sync_transport import Reported, SyncTransport
from edge_agent.sync.boot import JOURNAL
from edge_agent.sync.disk import Disk
from edge_agent.sync.download import Pace
from edge_agent.sync.errors import (
    GateError,
    NotReachableError,
    RefusedError,
    SyncError,
    SyncFolderError,
)
from edge_agent.sync.gate import Gate, GateVerdict
from edge_agent.sync.going_back import go_back
from edge_agent.sync.journal import Journal
from edge_agent.sync.records import ReleaseRecord, Running, State
from edge_agent.sync.release_files import ReleaseFiles
from edge_agent.sync.reports import ReportQueue
from edge_agent.sync.store import ReleaseStore
from edge_agent.sync.trust import Release, TrustedRepository
from partition.release.desired import Desired, choose_release
from partition.release.manifest import Manifest, runs_on

logger = logging.getLogger(__name__)

CLOCK_TOLERANCE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """What the operator of a device decides."""

    channel: str
    device_id: str  # TENANT/DEVICE
    runtime: str  # version of this program
    hardware_class: str = ""
    soak_s: float = 86_400.0  # how long a trial answers before it is confirmed
    min_answers: int = 50  # and how often
    check_after_s: tuple[float, ...] = (60.0, 600.0)  # golden prompts again, besides at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """How one cycle ended."""

    running: str | None
    state: State | None  # of what runs; None: the model that the device was made with
    changed: bool  # something else runs than before
    wanted: str | None = None
    fetched_bytes: int = 0
    error_kind: str = ""
    message: str = ""  # one sentence for the operator


@dataclass(slots=True)
class _Cycle:
    """What one cycle has found out so far."""

    progress: Callable[[int], None]
    wanted: str | None = None
    fetched_bytes: int = 0

    def count(self, size_bytes: int) -> None:
        self.fetched_bytes += size_bytes
        self.progress(size_bytes)


class SyncClient:
    """Owner of the journal and the store of one device. Used from one thread; close it."""

    def __init__(
        self,
        folder: Path,
        settings: SyncSettings,
        *,
        root: bytes,
        transport: SyncTransport,
        gate: Gate,
        factory_files: Mapping[str, Path] | None = None,
        disk: Disk | None = None,
        pace: Pace | None = None,
        now: Callable[[], float] = time.time,
        progress: Callable[[int], None] = lambda _: None,
        expect: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Open the folder.

        Args:
            folder: For everything that synchronisation keeps.
            settings: The operator's.
            root: The first root, as the program ships it.
            transport: The way to the cloud.
            gate: What a release must pass.
            factory_files: Files the device was made with, by digest: deltas may start from them.
            disk: Where every change goes through.
            pace: How fast blobs may come.
            now: Unix seconds.
            progress: Told the bytes of each part that is kept.
            expect: Told before how many bytes a release takes.

        Raises:
            SyncFolderError: The folder or its journal cannot be used.
        """
        self._disk = disk or Disk()
        self.store = ReleaseStore(folder, self._disk)
        self.store.prepare()
        self.journal = Journal(folder / JOURNAL, self._disk)
        self._settings = settings
        self._gate = gate
        self._files = ReleaseFiles(self.store, transport, pace or Pace(), factory_files or {})
        self._now = now
        self._progress = progress
        self._expect = expect
        self._trusted = TrustedRepository(
            folder / "tuf", root, transport, channel=settings.channel, disk=self._disk
        )
        self.reports = ReportQueue(self.journal, transport)
        self._last_gate = GateVerdict(passed=True)
        # What the agent that serves beside this client has to say about its answers.
        self.route_shares: Callable[[], tuple[tuple[str, float], ...]] = lambda: ()

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def run_cycle(self) -> CycleResult:
        """Do all there is to do; safe to repeat, and to kill at any moment.

        Returns:
            How it ended, also when it ended in an error: what ran before runs on.

        Raises:
            SyncFolderError: Another updater is at work, or the folder cannot be used.
        """
        with self.store.locked():
            before = self.journal.running.release
            cycle = _Cycle(self._progress)
            error: SyncError | None = None
            try:
                self.store.tidy()
                self._follow(cycle)
            except SyncFolderError:
                raise
            except SyncError as caught:
                error = caught
                logger.warning("sync: %s", caught)
                if self._has_failed(cycle.wanted):
                    self._collect(None)
            except OSError as caught:
                error = SyncFolderError(
                    f"{self.store.folder}: {caught.strerror}; free space or repair the disk"
                )
                logger.warning("sync: %s", error)
            running = self.journal.running.release
            record = self.journal.record(running) if running is not None else None
        about = cycle.wanted if self._has_failed(cycle.wanted) else running
        self._report(about, error.kind if error is not None else "")
        return CycleResult(
            running=running,
            state=record.state if record is not None else None,
            changed=running != before,
            wanted=cycle.wanted,
            fetched_bytes=cycle.fetched_bytes,
            error_kind=error.kind if error is not None else "",
            message=str(error) if error is not None else "",
        )

    def roll_back(self, error_kind: str = "operator") -> Running:
        """Go back to the release before; at once, without network and without a gate: it was confirmed here.

        Raises:
            SyncFolderError: The device runs what it was made with already, or another updater is at work.
        """
        with self.store.locked():
            given_up = self.journal.running.release
            running = go_back(self.journal, self.store, error_kind)
        self._report(given_up, error_kind)
        return running

    def observe(self, *, seconds: float, answers: int) -> State | None:
        """Tell a trial what it has shown; confirms it, or takes it back, when the time has come.

        Args:
            seconds: That the release answered since the last call.
            answers: It gave since then.

        Returns:
            The state of what runs now; None for the model that the device was made with.

        Raises:
            SyncFolderError: The journal cannot be used.
        """
        record = self._on_trial()
        if record is None:
            running = self.journal.running.release
            current = self.journal.record(running) if running is not None else None
            return current.state if current is not None else None
        self.journal.soak(record.release, seconds=seconds, answers=answers, checks=0)
        record = self._on_trial()
        assert record is not None, "soaking does not end a trial"
        settings = self._settings
        is_over = record.soak_s >= settings.soak_s and record.answers >= settings.min_answers
        due = sum(record.soak_s >= after for after in settings.check_after_s) + is_over
        if record.checks < due:
            if not self._check(record.release).passed:
                self.roll_back("trial")
                return State.ROLLED_BACK
            self.journal.soak(record.release, seconds=0.0, answers=0, checks=due - record.checks)
            self.journal.give_back_boots(
                record.release
            )  # it loads and answers: what stops it now is not its fault
        if not is_over:
            return State.TRIAL
        self.journal.confirm(record.release)  # F8
        self._report(record.release, "")
        return State.CONFIRMED

    # The steps of a cycle

    def _follow(self, cycle: _Cycle) -> None:
        now = self._now()
        if now < self.journal.number("max_seen") - CLOCK_TOLERANCE_S:
            raise RefusedError(
                "the clock is behind the last successful update; set it, then run `edge-agent sync`",
                "clock_back",
            )
        trusted = self._trusted.refresh(self.journal.floors())
        self.journal.believe(
            trusted.floors, min_release_counter=trusted.min_release_counter, now=now
        )
        desired = trusted.desired
        wanted = cycle.wanted = choose_release(desired, self._settings.device_id)
        if wanted == self.journal.running.release:
            self._collect(None)
            return
        record = self.journal.record(wanted)
        if desired.hold and (record is None or not record.was_confirmed):
            logger.info("the rollout is on hold; %s is not begun", wanted)
            return
        release = self._trusted.release(wanted)
        self._check_allowed(release, record, desired)
        if self._is_ready(release, record):
            self.journal.return_to(wanted, desired.retry_epoch)
            self.store.point_to(wanted)
        else:
            self._install(release, desired, cycle)
        self._collect(release.manifest)

    def _check_allowed(
        self, release: Release, record: ReleaseRecord | None, desired: Desired
    ) -> None:
        manifest = release.manifest
        if not self.journal.may_run(manifest.release, manifest.release_counter):
            raise RefusedError(
                f"{manifest.release} is below the floor that its publisher signed", "rollback"
            )
        if not runs_on(manifest, self._settings.runtime):
            raise RefusedError(
                f"{manifest.release} needs version {manifest.min_runtime} of this program; update it first",
                "runtime_too_old",
            )
        if (
            record is not None
            and record.state in (State.FAILED, State.ROLLED_BACK)
            and record.manifest_sha256 == release.manifest_sha256
            and record.retry_epoch >= desired.retry_epoch
        ):
            raise GateError(
                f"{manifest.release} failed here before; raise retry_epoch to have it tried again",
                record.error_kind or "gate",
            )

    def _is_ready(self, release: Release, record: ReleaseRecord | None) -> bool:
        return (
            record is not None
            and record.was_confirmed
            and record.manifest_sha256 == release.manifest_sha256
            and self.store.verify(release.manifest.release)
        )

    def _install(self, release: Release, desired: Desired, cycle: _Cycle) -> None:
        name = release.manifest.release
        record = self.journal.record(name)
        if (
            record is None
            or record.manifest_sha256 != release.manifest_sha256
            or record.state not in (State.STAGED, State.GATED)
        ):
            self._stage(release, desired, cycle)
        if not self.store.verify(name):  # also after a crash: what is tried is what was signed
            self.store.drop_damaged(release.manifest)
            self._begin(release, desired)
            raise NotReachableError(
                f"{name} was damaged on this disk; the next cycle fetches it again"
            )
        verdict = self._check(name)
        if verdict.passed:
            verdict = self._gate.check_canaries(self.store.release(name))
        if not verdict.passed:
            self.journal.move(name, State.FAILED, error_kind=verdict.kind)  # F5
            raise GateError(f"{name} did not pass its gate here: {verdict.reason}", verdict.kind)
        self.journal.move(name, State.GATED)  # F5
        self.journal.begin_trial(name)  # F6
        self.store.point_to(name)  # F7

    def _stage(self, release: Release, desired: Desired, cycle: _Cycle) -> None:
        manifest = release.manifest
        self._begin(release, desired)
        self._report(manifest.release, "")
        try:
            self._files.fetch(manifest, cycle.count, self._expect)
        except RefusedError as error:
            self.journal.move(manifest.release, State.FAILED, error_kind=error.kind)
            raise
        self.store.assemble(manifest, release.manifest_bytes)
        self.journal.move(manifest.release, State.STAGED)

    def _begin(self, release: Release, desired: Desired) -> None:
        self.journal.begin(
            release.manifest.release,
            release.manifest.release_counter,
            release.manifest_sha256,
            desired.retry_epoch,
        )

    def _check(self, release: str) -> GateVerdict:
        manifest = self.store.manifest(release)
        if manifest is None:
            return GateVerdict(passed=False, reason="its manifest cannot be read")
        verdict = self._gate.check(
            self.store.release(release), manifest, self._baseline_ms(release)
        )
        self._last_gate = verdict
        return verdict

    def _baseline_ms(self, release: str) -> float:
        """Measure the running release on its own golden prompts; 0 when nothing comparable runs."""
        running = self.journal.running.release
        manifest = self.store.manifest(running) if running is not None else None
        if running is None or running == release or manifest is None:
            return 0.0
        return self._gate.check(self.store.release(running), manifest, 0.0).p95_ms

    def _collect(self, wanted: Manifest | None) -> None:
        running = self.journal.running
        keep = {name for name in (running.release, running.previous) if name is not None}
        bases: set[str] = set()
        unfinished: set[str] = set()
        if wanted is not None and wanted.release not in keep:
            keep.add(wanted.release)
            bases.update(delta.base_sha256 for delta in wanted.deltas)
            unfinished.update(blob.sha256 for blob in wanted.blobs())
        self.store.collect(frozenset(keep), frozenset(bases), frozenset(unfinished))

    def _on_trial(self) -> ReleaseRecord | None:
        running = self.journal.running.release
        record = self.journal.record(running) if running is not None else None
        return record if record is not None and record.state is State.TRIAL else None

    def _has_failed(self, release: str | None) -> bool:
        record = self.journal.record(release) if release is not None else None
        return record is not None and record.state in (State.FAILED, State.ROLLED_BACK)

    def _report(self, release: str | None, error_kind: str) -> None:
        record = self.journal.record(release) if release is not None else None
        self.reports.add(
            Reported(
                channel=self._settings.channel,
                report_seq=0,  # the queue counts
                release=release or "",
                state=(record.state if record is not None else State.CONFIRMED).value,
                release_counter=record.counter if record is not None else 0,
                min_release_counter=int(self.journal.number("min_release_counter")),
                previous_release=self.journal.running.previous or "",
                manifest_sha256=record.manifest_sha256 if record is not None else "",
                error_kind=error_kind,
                latency_p50_ms=self._last_gate.p50_ms,
                latency_p95_ms=self._last_gate.p95_ms,
                route_shares=self.route_shares(),
                free_disk_bytes=shutil.disk_usage(self.store.folder).free,
                hardware_class=self._settings.hardware_class,
            )
        )
        self.reports.deliver()
