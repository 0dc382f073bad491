"""Files that hold a secret: created, never overwritten, and read by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from cloud_service.errors import PkiError

_OWNER_ONLY = 0o600
_FOLDER_OWNER_ONLY = 0o700


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner may read.

    Raises:
        PkiError: It exists already, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=_FOLDER_OWNER_ONLY, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise PkiError(f"{path}: exists already and is never overwritten; name another") from error
    except OSError as error:
        raise PkiError(f"{path}: cannot be written ({error.strerror}); free it first") from error
