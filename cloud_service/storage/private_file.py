"""Files that hold a secret: created, never overwritten, and read by their owner alone."""

from __future__ import annotations

from pathlib import Path

from cloud_service.errors import PkiError
from partition.store.durable import create_private

_FOLDER_OWNER_ONLY = 0o700


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner may read.

    Raises:
        PkiError: It exists already, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=_FOLDER_OWNER_ONLY, parents=True, exist_ok=True)
        create_private(path, content)
    except FileExistsError as error:
        raise PkiError(f"{path}: exists already and is never overwritten; name another") from error
    except OSError as error:
        raise PkiError(f"{path}: cannot be written ({error.strerror}); free it first") from error
