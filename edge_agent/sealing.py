"""Bytes at rest: AES-256-GCM with a fresh nonce, bound to what they belong to."""

from __future__ import annotations

import os
from typing import Protocol

_FORMAT = b"TS1"
_NONCE_BYTES = 12  # NIST SP 800-38D, 5.2.1.1


class SealBrokenError(Exception):
    """Another key, another owner, or changed bytes."""


class Sealable(Protocol):
    """Something that encrypts itself for the device's disk, and nothing else."""

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt with a 32-byte key, bound to ``aad``."""


def seal_bytes(plain: bytes, key: bytes, aad: bytes) -> bytes:
    """Encrypt under a 32-byte key, bound to ``aad``."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, plain, _FORMAT + aad)


def open_bytes(sealed: bytes, key: bytes, aad: bytes) -> bytes:
    """Decrypt what :func:`seal_bytes` made.

    Raises:
        SealBrokenError: Another key, other ``aad``, or changed bytes.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head = len(_FORMAT) + _NONCE_BYTES
    if sealed[: len(_FORMAT)] != _FORMAT or len(sealed) < head:
        raise SealBrokenError("stored bytes have an unknown format; update the agent")
    try:
        return AESGCM(key).decrypt(sealed[len(_FORMAT) : head], sealed[head:], _FORMAT + aad)
    except InvalidTag:
        raise SealBrokenError("stored bytes are of another key, or damaged") from None
