"""Keeps the cache of built stages from growing for ever: what no one opened for a while goes, and is built again when wanted."""

from __future__ import annotations

import logging
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

UNUSED_DAYS: Final = 30
_DAY_S: Final = 86_400
_STAGE: Final = re.compile(r"[0-9a-f]{64}")
_UNFINISHED: Final = (
    "building-"  # what a build that was killed leaves behind; the longest takes minutes, not a day
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was taken away."""

    num_stages: int
    freed_bytes: int


def mark_used(folder: Path) -> None:
    """Note that a built stage is opened now."""
    with suppress(OSError):  # a cache that others own may be read only
        folder.touch()


def prune_stages(
    cache_dir: Path, *, unused_days: float = UNUSED_DAYS, now_s: float | None = None
) -> Pruned:
    """Delete built stages that were not opened for so many days, and what builds that were killed left.

    A stage that is open keeps its files until it is closed, where the system allows it, and otherwise stays as it is.

    Args:
        cache_dir: Where built stages are kept.
        unused_days: 0 deletes all of them.
        now_s: Seconds since 1970; None: the clock's.
    """
    now_s = time.time() if now_s is None else now_s
    number, freed = 0, 0
    for folder in sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []:
        is_stage = _STAGE.fullmatch(folder.name) is not None
        days = unused_days if is_stage else max(unused_days, 1)
        if not (is_stage or folder.name.startswith(_UNFINISHED)) or not folder.is_dir():
            continue
        size = _prune(folder, now_s - days * _DAY_S)
        number += size is not None
        freed += size or 0
    if number:
        logger.info("pruned %d built stages, %d bytes", number, freed)
    return Pruned(num_stages=number, freed_bytes=freed)


def _prune(folder: Path, before_s: float) -> int | None:
    """Delete one folder; None where it was used since, or is being built or held."""
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            if folder.stat().st_mtime > before_s:
                return None
            size = sum(file.stat().st_size for file in folder.iterdir())
            # Renamed first: nobody finds half a stage.
            doomed = folder.with_name(f"{_UNFINISHED}{folder.name[:16]}")
            folder.rename(doomed)
            shutil.rmtree(doomed)
    except (OSError, Timeout):
        return None
    finally:
        if folder.name.startswith(_UNFINISHED):
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    return size
