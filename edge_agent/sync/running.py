"""Lays the release that runs over the device's own configuration, and remembers how a process with it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.sync.release_layout import (
    ADAPTER,
    CERTIFICATES,
    GATES,
    HEADS,
    PROFILE,
    SCORERS,
    TASKS,
    folder_of,
    model_of,
)

if TYPE_CHECKING:
    from edge_agent.config import EdgeConfig
    from edge_agent.sync.boot import Boot

logger = logging.getLogger(__name__)

FOLDER = "sync"


def sync_folder(config: EdgeConfig) -> Path:
    """Return where synchronisation keeps everything."""
    return config.state_folder / FOLDER


def begin(config: EdgeConfig) -> tuple[EdgeConfig, Boot]:
    """Choose what runs, before a model is loaded; a release on trial loses one of its starts.

    Returns:
        The configuration with the release's model, tasks, scorers and certificates, and what was chosen.
    """
    from edge_agent.sync.boot import Boot, start

    folder = sync_folder(config)
    if not folder.is_dir():
        return config, Boot(release=None, folder=None)
    boot = start(folder)
    return with_release(config, boot), boot


def with_release(config: EdgeConfig, boot: Boot) -> EdgeConfig:
    """Put a release's files in place of the configured ones; what it does not bring stays."""
    folder = boot.folder
    if folder is None:
        return config
    changes: dict[str, object] = {}
    model, adapter = model_of(folder), folder_of(folder, ADAPTER)
    if model is not None:
        changes["model"] = config.model.model_copy(
            update={
                "name": str(model.resolve()),
                # The device's own adapter belongs to its own model.
                "adapter": adapter.resolve() if adapter is not None else None,
            }
        )
    if (folder / PROFILE).is_file():
        profile = (folder / PROFILE).resolve()
        changes["cloud"] = config.cloud.model_copy(update={"profile": profile})
    tasks = folder_of(folder, TASKS)
    if tasks is not None:
        changes["tasks"] = (*config.tasks, tasks.resolve())
    for field, name in (
        ("certificates", CERTIFICATES),
        ("scorers", SCORERS),
        ("heads", HEADS),
        ("gates", GATES),
    ):
        path = folder_of(folder, name)
        if path is not None:
            changes[field] = path.resolve()
    return config.model_copy(update=changes)


class Stay:
    """One process's time with the release it started with. A process that crashes never comes to its end."""

    def __init__(
        self, folder: Path, boot: Boot, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin; reads and writes nothing.

        Args:
            folder: Of synchronisation.
            boot: What the start chose.
            clock: Seconds.
        """
        self.boot = boot
        self.is_counted = False  # somebody else tells the trial of time and answers
        self._folder = folder
        self._clock = clock
        self._began = clock()

    def end(self, num_answers: int) -> None:
        """Tell the trial, if there is one, that this process ended in good order after so many answers."""
        if self.boot.release is None:
            return
        from edge_agent.sync.boot import JOURNAL
        from edge_agent.sync.disk import Disk
        from edge_agent.sync.errors import SyncFolderError
        from edge_agent.sync.journal import Journal
        from edge_agent.sync.records import State

        try:
            journal = Journal(self._folder / JOURNAL, Disk())
        except SyncFolderError as error:
            logger.warning("%s", error)
            return
        try:
            running = journal.running.release
            record = journal.record(running) if running is not None else None
            if record is None or record.state is not State.TRIAL:
                return
            journal.give_back_boots(record.release)
            if record.release == self.boot.release and not self.is_counted:
                seconds = self._clock() - self._began
                journal.soak(record.release, seconds=seconds, answers=num_answers, checks=0)
        except SyncFolderError as error:
            logger.warning("%s", error)
        finally:
            journal.close()
