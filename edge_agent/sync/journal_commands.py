"""What an operator may ask of a device that has no network: what runs, and to go back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.sync.boot import JOURNAL
from edge_agent.sync.disk import Disk
from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.going_back import go_back
from edge_agent.sync.journal import Journal
from edge_agent.sync.store import ReleaseStore


def roll_back_here(folder: Path) -> str | None:
    """Go back to the release before; returns it, None for the model that the device was made with.

    Raises:
        SyncFolderError: There is nothing before it, or another updater is at work.
    """
    disk = Disk()
    journal, store = _open(folder, disk), ReleaseStore(folder, disk)
    try:
        with store.locked():
            return go_back(journal, store, "operator").release
    finally:
        journal.close()


def describe(folder: Path) -> dict[str, Any]:
    """Say what runs and how far each release has come; reads only.

    Raises:
        SyncFolderError: The journal cannot be read.
    """
    if not (folder / JOURNAL).exists():
        return {"running": "factory", "state": "CONFIRMED", "previous": "", "releases": {}}
    journal = _open(folder, Disk())
    try:
        running = journal.running
        record = journal.record(running.release) if running.release is not None else None
        return {
            "running": running.release or "factory",
            "state": record.state.value if record is not None else "CONFIRMED",
            "previous": running.previous or "factory",
            "min_release_counter": int(journal.number("min_release_counter")),
            "releases": {item.release: item.state.value for item in journal.records()},
        }
    finally:
        journal.close()


def _open(folder: Path, disk: Disk) -> Journal:
    if not (folder / JOURNAL).exists():
        raise SyncFolderError(
            "the device runs the model it was made with; there is nothing before it"
        )
    return Journal(folder / JOURNAL, disk)
