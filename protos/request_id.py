"""Request ids: UUID version 7, so that they sort by time and say nothing about the caller.

``uuid.uuid7`` comes with Python 3.14; until then these few lines follow RFC 9562, section 5.7.
"""

from __future__ import annotations

import secrets
import time
import uuid

_VERSION = 7
_VARIANT = 0b10


def new_request_id() -> str:
    """Make an id: 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = secrets.randbits(74)
    number = (milliseconds & (1 << 48) - 1) << 80
    number |= _VERSION << 76 | (random >> 62) << 64
    number |= _VARIANT << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=number))


def is_request_id(text: str) -> bool:
    """Tell whether a text is a UUIDv7 in its usual form: lower case, with hyphens."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return False
    return value.version == _VERSION and str(value) == text
