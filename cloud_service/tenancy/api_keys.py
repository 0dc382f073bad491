"""API keys of backends: ``tnd_<id>_<256-bit secret>``, kept as HMAC-SHA256 under a pepper that is not in the database.

A slow hash would add nothing: the secret is random, not a password.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_ID_BYTES = 6
_SECRET_BYTES = 32
_PATTERN = re.compile(r"tnd_([0-9a-f]{12})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as its owner holds it."""

    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> ApiKey:
        """Make a random one."""
        return cls(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> ApiKey | None:
        """Read the written form; None when it is none."""
        match = _PATTERN.fullmatch(text)
        return None if match is None else cls(match[1], match[2])

    @property
    def text(self) -> str:
        """The written form; shown once, never logged."""
        return f"tnd_{self.key_id}_{self.secret}"

    def digest(self, pepper: bytes) -> bytes:
        """What is stored."""
        return hmac.digest(pepper, self.text.encode("ascii"), hashlib.sha256)

    def matches(self, stored: bytes, pepper: bytes) -> bool:
        """Whether this is the key of a stored digest; in constant time."""
        return hmac.compare_digest(self.digest(pepper), stored)


def pepper_of(master_key: bytes) -> bytes:
    """The server's pepper, derived from its master key."""
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"tandem api key pepper")
    return derive.derive(master_key)
