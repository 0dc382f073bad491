"""Where an answer was cut off, sealed, so that another server goes on at that very token.

The caller cannot read it nor make one: it is sealed with its tenant's key, and bound to the request's content. What is
chosen next depends only on the prompt, the seed and the position, so the text is the one it would have been.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass, field

import sqlalchemy as sa

from cloud_service.errors import StateStoreError
from cloud_service.identity import Identity
from cloud_service.storage.envelope import Envelope
from protos.errors import InvalidRequestError

_HEADER = struct.Struct("<32sII")
_PURPOSE = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """How far an answer got."""

    payload_sha256: bytes  # of the request it answers
    num_characters: int  # that were sent
    token_ids: tuple[int, ...] = field(repr=False)  # that were chosen, sent or held back


def seal_resume_token(
    connection: sa.Connection, envelope: Envelope, identity: Identity, point: ResumePoint
) -> str:
    """Make the token; printable ASCII."""
    count = len(point.token_ids)
    plain = _HEADER.pack(point.payload_sha256, point.num_characters, count)
    plain += struct.pack(f"<{count}I", *point.token_ids)
    sealed = envelope.seal(connection, identity.tenant, f"{_PURPOSE} {identity.device}", plain)
    return base64.urlsafe_b64encode(sealed).decode("ascii")


def open_resume_token(
    connection: sa.Connection,
    envelope: Envelope,
    identity: Identity,
    token: str,
    payload_sha256: bytes,
) -> ResumePoint:
    """Read a token.

    Raises:
        InvalidRequestError: It is not one of ours, is another device's, or belongs to another request.
    """
    wrong = InvalidRequestError(
        "the resume token does not belong to this request; send the request without it"
    )
    try:
        sealed = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        purpose = f"{_PURPOSE} {identity.device}"
        plain = envelope.open(connection, identity.tenant, purpose, sealed)
        digest, num_characters, count = _HEADER.unpack_from(plain)
        token_ids = struct.unpack_from(f"<{count}I", plain, _HEADER.size)
    except (UnicodeEncodeError, binascii.Error, struct.error, StateStoreError):
        raise wrong from None
    if digest != payload_sha256:
        raise wrong
    return ResumePoint(
        payload_sha256=digest, num_characters=num_characters, token_ids=tuple(token_ids)
    )
