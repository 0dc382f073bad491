"""Gets the files of a release by the shortest way that gives exactly what was signed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.cloud.sync_transport import SyncTransport
from edge_agent.sync.download import Pace, fetch_blob
from edge_agent.sync.errors import RefusedError
from edge_agent.sync.store import ReleaseStore
from partition.release.manifest import Blob, BundleFile, FileDelta, Manifest

logger = logging.getLogger(__name__)

Count = Callable[[int], None]


class ReleaseFiles:
    """Brings files into the store, whose lock the caller holds."""

    def __init__(
        self,
        store: ReleaseStore,
        transport: SyncTransport,
        pace: Pace,
        factory_files: Mapping[str, Path],
    ) -> None:
        """Take the store, the way to the cloud, and what the device was made with, by digest."""
        self._store = store
        self._transport = transport
        self._pace = pace
        self._factory_files = dict(factory_files)

    def fetch(self, manifest: Manifest, count: Count, expect: Count) -> None:
        """Bring every file that is missing into the store: from the device itself, by a delta, or whole.

        Args:
            manifest: Of the release.
            count: Told the bytes of each part that is kept.
            expect: Told first how many bytes there will be.

        Raises:
            NoSpaceError: They would not fit.
            NotReachableError: The link failed; what came is kept.
            RefusedError: The content is not what was signed.
        """
        missing = {
            file.blob.sha256: file
            for file in manifest.files
            if not self._store.has_blob(file.blob.sha256)
        }
        plan = [(file, self._best_delta(manifest, file)) for file in missing.values()]
        largest = max((delta.blob.size_bytes for _, delta in plan if delta is not None), default=0)
        self._store.check_space(sum(file.blob.size_bytes for file, _ in plan) + largest)
        expect(sum((delta or file).blob.size_bytes for file, delta in plan))
        for file, delta in plan:
            source = self._factory_files.get(file.blob.sha256)
            if source is not None and self._adopt(file.blob, source):
                continue
            if delta is not None and self._fetch_delta(file.blob, delta, count):
                continue
            self._fetch_blob(file.blob, count)

    def _best_delta(self, manifest: Manifest, file: BundleFile) -> FileDelta | None:
        usable = [
            delta
            for delta in manifest.deltas_of(file.path)
            if self._store.has_blob(delta.base_sha256) or delta.base_sha256 in self._factory_files
        ]
        return min(usable, key=lambda delta: delta.blob.size_bytes, default=None)

    def _fetch_delta(self, blob: Blob, delta: FileDelta, count: Count) -> bool:
        """Try the short way; a delta that does not give the signed file costs only its own bytes."""
        if not self._store.has_blob(delta.base_sha256):
            source = self._factory_files[delta.base_sha256]
            base = Blob(sha256=delta.base_sha256, size_bytes=source.stat().st_size, parts=())
            if not self._adopt(base, source):
                return False
        self._fetch_blob(delta.blob, count)
        try:
            self._store.apply(delta, blob)
        except RefusedError as error:
            logger.warning("delta: %s", error)
            return False
        return True

    def _adopt(self, blob: Blob, source: Path) -> bool:
        try:
            self._store.adopt(blob, source)
        except RefusedError:
            return False  # not the file it was; the cloud has it
        return True

    def _fetch_blob(self, blob: Blob, count: Count) -> None:
        fetch_blob(self._store, blob, self._transport, self._pace, count)
