"""The device's root key in a file that only its owner may read, and the keys derived from it.

The file holds 32 random bytes. No key is used for two purposes: HKDF-SHA256 (RFC 5869) derives one for each.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Self

from edge_agent.errors import KeyStoreError
from partition.store.durable import create_private, sync_folder

KEY_BYTES = 32
CONTEXT = b"tandem/device/v1/"  # first part of every HKDF info


class KeyStore:
    """The root key of one device. Immutable; its ``repr`` says nothing of the key."""

    def __init__(self, root_key: bytes) -> None:
        if len(root_key) != KEY_BYTES:
            raise KeyStoreError(f"a root key has {KEY_BYTES} bytes; give one of that length")
        self._root_key = root_key

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the key file, or make it with a fresh key when there is none.

        Raises:
            KeyStoreError: The file cannot be read or made, others may read it, it is not ours, or it holds no key.
        """
        for _ in range(2):  # a second time when another process made the file between the two steps
            try:
                return cls(_read(path))
            except FileNotFoundError:
                _create(path)
            except OSError as error:
                raise KeyStoreError(
                    f"{path}: the key file cannot be read ({error.strerror}); correct its owner and mode"
                ) from error
        raise KeyStoreError(
            f"{path}: the key file vanishes while it is read; keep others away from it"
        )

    def derive(self, purpose: str) -> bytes:
        """Make the 32-byte key of one purpose, always the same for the same device and purpose."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        # No salt: the root key is uniformly random already (RFC 5869, 3.1 and 3.3).
        kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=CONTEXT + purpose.encode())
        return kdf.derive(self._root_key)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)  # of the opened file: the path may be exchanged meanwhile
        if not stat.S_ISREG(status.st_mode):
            raise KeyStoreError(f"{path}: the key file is no ordinary file; remove it")
        if status.st_uid not in (os.geteuid(), 0):
            raise KeyStoreError(
                f"{path}: the key file belongs to another user; give it to this one"
            )
        if status.st_mode & 0o077:
            raise KeyStoreError(f"{path}: others may read the key file; run `chmod 600` on it")
        content = file.read(KEY_BYTES + 1)
    if len(content) != KEY_BYTES:
        raise KeyStoreError(
            f"{path}: the key file does not hold {KEY_BYTES} bytes; restore it from its copy"
        )
    return content


def _create(path: Path) -> None:
    """Write a fresh key so that the path never names a half-written file, and never replaces an existing one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            create_private(temporary, secrets.token_bytes(KEY_BYTES))
            os.link(temporary, path)  # unlike rename, fails when another process was first
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError:
        return
    except OSError as error:
        raise KeyStoreError(
            f"{path}: the key file cannot be made ({error.strerror}); give a folder that may be written"
        ) from error
