"""Lays the release that runs over the device's own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.sync.boot import Boot, start
from edge_agent.sync.release_layout import CERTIFICATES, SCORERS, TASKS, folder_of, model_of

if TYPE_CHECKING:
    from edge_agent.config import EdgeConfig

FOLDER = "sync"


def sync_folder(config: EdgeConfig) -> Path:
    """Return where synchronisation keeps everything."""
    return config.state_folder / FOLDER


def begin(config: EdgeConfig) -> tuple[EdgeConfig, Boot]:
    """Choose what runs, before a model is loaded; a release on trial loses one of its starts.

    Returns:
        The configuration with the release's model, tasks, scorers and certificates, and what was chosen.
    """
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
    model = model_of(folder)
    if model is not None:
        changes["model"] = config.model.model_copy(update={"name": str(model.resolve())})
    tasks = folder_of(folder, TASKS)
    if tasks is not None:
        changes["tasks"] = (*config.tasks, tasks.resolve())
    for field, name in (("certificates", CERTIFICATES), ("scorers", SCORERS)):
        path = folder_of(folder, name)
        if path is not None:
            changes[field] = path.resolve()
    return config.model_copy(update=changes)
