"""The vault: surrogate <-> original of one request. It lives in the device's memory, or encrypted in the outbox.

It has no ``repr`` of values, cannot be pickled or copied, and is wiped when the request is over. Surrogates carry no secret:
the object, not the text, selects the vault, so that one request's answer cannot be restored with another's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NoReturn, SupportsIndex

from edge_agent.errors import VaultError
from edge_agent.flow import Entity

KEY_BYTES = 32  # AES-256
_NONCE_BYTES = 12  # NIST SP 800-38D, 5.2.1.1
_FORMAT = b"TV1"


class Vault:
    """Originals of one request. Not thread-safe; one owner."""

    __slots__ = ("_entities", "_originals", "_wiped")

    def __init__(self) -> None:
        self._originals: dict[str, str] = {}
        self._entities: dict[str, Entity] = {}
        self._wiped = False

    def __repr__(self) -> str:
        return "Vault(wiped)" if self._wiped else f"Vault({len(self._originals)} surrogates)"

    def __len__(self) -> int:
        return len(self._originals)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Vault does not leave its process; use to_sealed")

    def __copy__(self) -> NoReturn:
        raise TypeError("a Vault has one owner; pass the vault itself")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Vault has one owner; pass the vault itself")

    def put(self, surrogate: str, entity: Entity, original: str) -> None:
        """Keep one pair; a surrogate never changes its meaning.

        Raises:
            VaultError: The vault is wiped, or the surrogate already stands for something else.
        """
        if self._wiped:
            raise VaultError("the vault of this request is wiped; send the request again")
        if self._originals.setdefault(surrogate, original) != original:
            raise VaultError("a surrogate would stand for two values; send the request again")
        self._entities[surrogate] = entity

    def put_literal(self, shifted: str, original: str) -> bool:
        """Keep a shifted date, which stands in the text without brackets; False when it stands for another date already."""
        if self._wiped or self._originals.get(shifted, original) != original:
            return False
        self._originals[shifted] = original
        self._entities[shifted] = Entity.DATE
        return True

    def literals(self) -> tuple[str, ...]:
        """The shifted dates, which are restored only where they come back exactly."""
        return tuple(surrogate for surrogate in self._originals if not surrogate.startswith("["))

    def original(self, surrogate: str) -> str | None:
        """What an exact surrogate stands for; None when it is not of this request."""
        return self._originals.get(surrogate)

    def originals(self) -> Iterator[tuple[Entity, str, str]]:
        """Every (entity, surrogate, original), in the order of first appearance."""
        for surrogate, original in self._originals.items():
            yield self._entities[surrogate], surrogate, original

    def wipe(self) -> None:
        """Forget everything; harmless when repeated."""
        self._originals.clear()
        self._entities.clear()
        self._wiped = True

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt with AES-256-GCM for the outbox.

        Args:
            key: 32 bytes, of the device's key store.
            aad: What the bytes are bound to: request id and tenant.

        Raises:
            VaultError: The key has another length, or the vault is wiped.
        """
        if self._wiped:
            raise VaultError("the vault of this request is wiped; send the request again")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        rows = [[s, e.value, o] for e, s, o in self.originals()]
        plain = json.dumps(rows).encode()
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + AESGCM(_checked(key)).encrypt(nonce, plain, _FORMAT + aad)

    @classmethod
    def from_sealed(cls, sealed: bytes, key: bytes, aad: bytes) -> Vault:
        """Decrypt what :meth:`to_sealed` made.

        Raises:
            VaultError: Another key, another request, or changed bytes.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head = len(_FORMAT) + _NONCE_BYTES
        if sealed[: len(_FORMAT)] != _FORMAT or len(sealed) < head:
            raise VaultError("the sealed vault has an unknown format; update the agent")
        try:
            plain = AESGCM(_checked(key)).decrypt(
                sealed[len(_FORMAT) : head], sealed[head:], _FORMAT + aad
            )
        except InvalidTag:
            raise VaultError(
                "the sealed vault is of another key or request, or damaged; its answer keeps the surrogates"
            ) from None
        vault = cls()
        for surrogate, entity, original in json.loads(plain):
            vault.put(surrogate, Entity(entity), original)
        return vault


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise VaultError(f"the vault's key must have {KEY_BYTES} bytes; check the key store")
    return key
