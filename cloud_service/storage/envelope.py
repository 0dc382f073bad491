"""Envelope encryption: a data key per tenant, wrapped by one master key that lies outside the database.

A sealed value is ``version (1) | key number (4, big-endian) | nonce (12) | AES-256-GCM ciphertext``. The associated data
binds it to its tenant and to its purpose, so that a row copied to another tenant does not open.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloud_service.errors import CloudServiceError, StateStoreError
from cloud_service.storage.private_file import write_private
from cloud_service.storage.state_store import TENANT_KEYS, insert_once

KEY_BYTES = 32
NONCE_BYTES = 12  # NIST SP 800-38D, section 8.2
_VERSION = 1
_HEADER = struct.Struct(">BI")


class Envelope:
    """Seals and opens values of tenants inside a transaction of the state store.

    Data keys are kept in memory once unwrapped. The store's threads may share an instance.
    """

    def __init__(self, master_key: bytes) -> None:
        self._master = AESGCM(master_key)
        self._keys: dict[bytes, AESGCM] = {}

    def seal(self, connection: sa.Connection, tenant: str, purpose: str, plain: bytes) -> bytes:
        """Encrypt for a tenant; makes the tenant's first key where there is none."""
        newest = self._newest(connection, tenant)
        if newest is None:
            # Another replica may be about to make it too; whoever comes second takes the first one's.
            values = self._new_key(tenant, 1)
            connection.execute(insert_once(connection.dialect.name, TENANT_KEYS, values))
            newest = self._newest(connection, tenant)
        assert newest is not None
        header = _HEADER.pack(_VERSION, newest.number)
        nonce = secrets.token_bytes(NONCE_BYTES)
        key = self._unwrap(tenant, newest.number, newest.wrapped)
        return header + nonce + key.encrypt(nonce, plain, _bind(header, tenant, purpose))

    def open(self, connection: sa.Connection, tenant: str, purpose: str, sealed: bytes) -> bytes:
        """Decrypt what :meth:`seal` made for the same tenant and purpose.

        Raises:
            StateStoreError: The bytes were changed, or belong to another tenant, purpose or master key.
        """
        header, body = sealed[: _HEADER.size], sealed[_HEADER.size :]
        if len(header) < _HEADER.size or header[0] != _VERSION or len(body) < NONCE_BYTES:
            raise StateStoreError("a sealed value is damaged; restore the state database")
        _, number = _HEADER.unpack(header)
        wrapped = connection.scalar(
            sa.select(TENANT_KEYS.c.wrapped).where(
                TENANT_KEYS.c.tenant == tenant, TENANT_KEYS.c.number == number
            )
        )
        if wrapped is None:
            raise StateStoreError("a tenant's data key is missing; restore the state database")
        key = self._unwrap(tenant, number, wrapped)
        try:
            return key.decrypt(
                body[:NONCE_BYTES], body[NONCE_BYTES:], _bind(header, tenant, purpose)
            )
        except InvalidTag as error:
            raise StateStoreError(
                "a sealed value does not open; the database and its master key do not belong together"
            ) from error

    def rotate(self, connection: sa.Connection, tenant: str) -> int:
        """Make a new key for what is sealed from now on; older values still open. Returns the key's number."""
        newest = self._newest(connection, tenant)
        number = 1 if newest is None else newest.number + 1
        connection.execute(sa.insert(TENANT_KEYS).values(**self._new_key(tenant, number)))
        return number

    def _new_key(self, tenant: str, number: int) -> dict[str, Any]:
        nonce = secrets.token_bytes(NONCE_BYTES)
        wrapped = nonce + self._master.encrypt(
            nonce, secrets.token_bytes(KEY_BYTES), _bind(b"", tenant, f"key {number}")
        )
        return {"tenant": tenant, "number": number, "wrapped": wrapped}

    def _newest(self, connection: sa.Connection, tenant: str) -> sa.Row[Any, Any] | None:
        return connection.execute(
            sa.select(TENANT_KEYS.c.number, TENANT_KEYS.c.wrapped)
            .where(TENANT_KEYS.c.tenant == tenant)
            .order_by(TENANT_KEYS.c.number.desc())
            .limit(1)
        ).one_or_none()

    def _unwrap(self, tenant: str, number: int, wrapped: bytes) -> AESGCM:
        # Remembered by its wrapped bytes, not by its number: a transaction that is rolled back gives the number free.
        if (known := self._keys.get(wrapped)) is not None:
            return known
        nonce, ciphertext = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        try:
            plain = self._master.decrypt(nonce, ciphertext, _bind(b"", tenant, f"key {number}"))
        except InvalidTag as error:
            raise StateStoreError(
                "the master key does not open this state database; give the one it was made with"
            ) from error
        return self._keys.setdefault(wrapped, AESGCM(plain))


def load_master_key(path: Path) -> bytes:
    """Read the master key, or make one where there is none.

    Raises:
        StateStoreError: The file has another size, can be read by others, or cannot be read or made.
    """
    try:
        if not path.exists():
            write_private(path, secrets.token_bytes(KEY_BYTES))
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except (OSError, CloudServiceError) as error:
        raise StateStoreError(
            f"{path}: the master key cannot be read or made; check folder and owner"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and os.name == "posix":
        raise StateStoreError(f"{path}: others may read the master key; run `chmod 600` on it")
    if len(content) != KEY_BYTES:
        raise StateStoreError(f"{path}: a master key has {KEY_BYTES} bytes; restore the right file")
    return content


def _bind(header: bytes, tenant: str, purpose: str) -> bytes:
    return b"\0".join((header, tenant.encode(), purpose.encode()))
