"""The cloud, the link, the gate and the disk of a synchronising device, in memory; each fills the real interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cloud_service.releases.repository import ReleaseRepository
from edge_agent.cloud.sync_transport import BlobChunk, Reported
from edge_agent.sync.disk import Disk
from edge_agent.sync.download import Pace
from edge_agent.sync.gate import GateVerdict
from partition.release.manifest import Manifest
from protos.errors import NotFoundError, UnavailableError

CHUNK_BYTES = 256 << 10


class SimulatedCloud:
    """Serves a real repository; the link can be cut after any number of bytes, or tampered with."""

    def __init__(self, repository: ReleaseRepository) -> None:
        self.repository = repository
        self.is_reachable = True
        self.cut_after_bytes: int | None = None  # of the next blob call, once
        self.fails: Callable[[str], bool] = lambda name: False
        self.tamper: Callable[[str, bytes], bytes] = lambda name, data: data
        self.sent_bytes = 0
        self.metadata_bytes = 0
        self.reports: list[tuple[str, Reported]] = []

    def get_metadata(self, name: str) -> bytes:
        self._reach(name)
        data = self.repository.read(name)
        if data is None:
            raise NotFoundError("no such metadata")
        data = self.tamper(name, data)
        self.metadata_bytes += len(data)
        return data

    def get_blob(self, digest: str, offset: int) -> Iterator[BlobChunk]:
        self._reach(digest)
        path = self.repository.blob(digest)
        if path is None:
            raise NotFoundError("no such blob")
        data = self.tamper(digest, path.read_bytes())
        limit, self.cut_after_bytes = self.cut_after_bytes, None
        end = len(data) if limit is None else min(len(data), offset + limit)
        for at in range(offset, end, CHUNK_BYTES):
            chunk = data[at : min(at + CHUNK_BYTES, end)]
            self.sent_bytes += len(chunk)
            yield BlobChunk(at, chunk)
        if limit is not None and end < len(data):
            raise UnavailableError("the link was cut")

    def watch_desired(self, channel: str, have_version: int) -> Iterator[int]:
        self._reach(channel)
        desired = self.repository.desired(channel)
        if desired is not None and desired.version > have_version:
            yield desired.version

    def report(self, request_id: str, reported: Reported) -> None:
        self._reach("report")
        if all(request_id != known for known, _ in self.reports):
            self.reports.append((request_id, reported))

    def _reach(self, name: str) -> None:
        if not self.is_reachable or self.fails(name):
            raise UnavailableError("the link is down")


@dataclass
class SimulatedGate:
    """A model passes unless one of its files says otherwise; ``says`` replaces that."""

    says: Callable[[Path, Manifest], GateVerdict] | None = None
    checked: list[str] = field(default_factory=list)
    masks: bool = True

    def check(self, folder: Path, manifest: Manifest, baseline_p95_ms: float) -> GateVerdict:
        self.checked.append(manifest.release)
        if self.says is not None:
            return self.says(folder, manifest)
        bad = any((folder / file.path).read_bytes()[:8] == b"is worse" for file in manifest.files)
        return GateVerdict(passed=not bad, reason="it is worse" if bad else "", p95_ms=10.0)

    def check_canaries(self, folder: Path) -> GateVerdict:
        return GateVerdict(passed=self.masks, reason="a canary sang", kind="anonymizer")


class StoppedError(BaseException):
    """The device lost its power or was killed: nothing catches this."""


class StoppingDisk(Disk):
    """The real disk, until the step with a given number; from then on nothing happens any more."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps = 0
        self.stopped = False

    def _step(self) -> None:
        if self.stopped or self.steps == self.stop_at:
            self.stopped = True
            raise StoppedError
        self.steps += 1

    def write(self, path, data, at=0):  # type: ignore[no-untyped-def]
        if not self.stopped and self.steps == self.stop_at:
            super().write(path, data[: len(data) // 2], at)  # torn
        self._step()
        super().write(path, data, at)

    def truncate(self, path, size_bytes):  # type: ignore[no-untyped-def]
        self._step()
        super().truncate(path, size_bytes)

    def sync_file(self, path):  # type: ignore[no-untyped-def]
        self._step()
        super().sync_file(path)

    def sync_folder(self, path):  # type: ignore[no-untyped-def]
        self._step()
        super().sync_folder(path)

    def make_folder(self, path):  # type: ignore[no-untyped-def]
        self._step()
        super().make_folder(path)

    def link(self, source, path):  # type: ignore[no-untyped-def]
        self._step()
        super().link(source, path)

    def rename(self, source, path):  # type: ignore[no-untyped-def]
        self._step()
        super().rename(source, path)

    def point(self, path, target):  # type: ignore[no-untyped-def]
        self._step()
        super().point(path, target)

    def unlink(self, path):  # type: ignore[no-untyped-def]
        self._step()
        super().unlink(path)

    def remove_folder(self, path):  # type: ignore[no-untyped-def]
        if not path.exists():
            return
        self._step()
        super().remove_folder(path)

    def commit(self, connection):  # type: ignore[no-untyped-def]
        self._step()
        super().commit(connection)


def no_waiting() -> Pace:
    """A pace without pauses, on a clock that stands."""
    return Pace(clock=lambda: 0.0, sleep=lambda seconds: None)
