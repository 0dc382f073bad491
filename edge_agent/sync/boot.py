"""Which release a starting device runs: the journal's, counted down if it is on trial, whole or not at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.journal import Journal
from edge_agent.sync.records import State
from edge_agent.sync.store import ReleaseStore

logger = logging.getLogger(__name__)

JOURNAL = "sync.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a start found."""

    release: str | None  # None: the model that the device was made with
    folder: Path | None  # of the release's files
    on_trial: bool = False
    may_update: bool = True  # False: the journal cannot be used, so nothing may be installed


def start(folder: Path, disk: Disk | None = None) -> Boot:
    """Choose what runs, before any model is loaded. Needs no network and never fails for want of a release.

    A release on trial loses one of its starts here; one that has none left, or whose files are not all there, goes
    back. Without a readable journal the link decides, and nothing is changed.
    """
    disk = disk or Disk()
    if not (folder / JOURNAL).exists():
        return _by_link(ReleaseStore(folder, disk), may_update=True)
    store = ReleaseStore(folder, disk)
    try:
        journal = Journal(folder / JOURNAL, disk)
    except SyncFolderError as error:
        logger.warning("%s", error)
        return _by_link(store, may_update=False)
    try:
        release = _choose(store, journal)
        record = journal.record(release) if release is not None else None
        _repair_link(store, release)
        return Boot(
            release=release,
            folder=store.release(release) if release is not None else None,
            on_trial=record is not None and record.state is State.TRIAL,
        )
    except SyncFolderError as error:  # a disk that became read-only, or is full
        logger.warning("%s", error)
        return _by_link(store, may_update=False)
    finally:
        journal.close()


def _choose(store: ReleaseStore, journal: Journal) -> str | None:
    while (release := journal.running.release) is not None:
        record = journal.record(release)
        if record is None or not store.is_whole(release):
            logger.warning("release %s is damaged; going back", release)
            journal.roll_back(error_kind="folder")
        elif record.state is State.TRIAL and record.boots_left == 0:
            logger.warning("release %s did not last through its trial; going back", release)
            journal.roll_back(error_kind="crash")
        else:
            if record.state is State.TRIAL:
                journal.use_boot(release)
            return release
    return None


def _repair_link(store: ReleaseStore, release: str | None) -> None:
    if store.current == release:
        return
    try:
        with store.locked():
            store.point_to(release)
    except SyncFolderError:
        logger.debug("an update is running and will set the link itself")


def _by_link(store: ReleaseStore, *, may_update: bool) -> Boot:
    release = store.current
    folder = store.release(release) if release is not None else None
    return Boot(release=release, folder=folder, may_update=may_update)
