"""The one way back: by hand, by a trial that ended badly, and without network or gate."""

from __future__ import annotations

from edge_agent.sync.errors import SyncFolderError
from edge_agent.sync.journal import Journal
from edge_agent.sync.records import Running
from edge_agent.sync.store import ReleaseStore


def go_back(journal: Journal, store: ReleaseStore, error_kind: str) -> Running:
    """Have the release before answer; what it needs was kept, and it was confirmed here. The caller holds the lock.

    Raises:
        SyncFolderError: The device runs what it was made with already.
    """
    if journal.running.release is None:
        raise SyncFolderError(
            "the device runs the model it was made with; there is nothing before it"
        )
    running = journal.roll_back(error_kind=error_kind)
    store.point_to(running.release)
    return running
