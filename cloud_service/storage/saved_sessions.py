"""Token ids of VERIFY sessions in the state database, sealed, so that a session survives its server.

Whoever opens a session that this server does not know, with the very same words, gets the ids that were saved last, here or
by another replica; the engine computes its memory again from them. What was saved may be a few frames old: the frames say
how long their prefix is and what its hash is, so an old copy is never mistaken for a new one.

SPLIT sessions are not saved: hidden states cannot be computed again from what the cloud knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from cloud_service.identity import Identity
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.state_store import SESSIONS, insert_once
from partition.extend.frame_messages import Opening, opening_to_message

_PURPOSE = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSession:
    """What is kept of one session."""

    identity: Identity
    opening: Opening
    ids: tuple[int, ...] = field(repr=False)


class SavedSessions:
    """The table of sessions; its functions run inside a transaction of the store."""

    def __init__(self, envelope: Envelope, *, ttl_s: float) -> None:
        self._envelope = envelope
        self._ttl_s = ttl_s

    def save(
        self, connection: sa.Connection, sessions: Iterable[SavedSession], *, now: float
    ) -> None:
        """Write sessions, in place of what was saved of them before."""
        for session in sessions:
            identity, opening = session.identity, session.opening
            plain = np.asarray(session.ids, dtype="<u4").tobytes()
            purpose = f"{_PURPOSE} {identity.device} {opening.session}"
            values = {
                "opening_sha256": _digest(opening),
                "expires": now + self._ttl_s,
                "ids": self._envelope.seal(connection, identity.tenant, purpose, plain),
            }
            changed = sa.update(SESSIONS).where(_is(identity, opening)).values(**values)
            if connection.execute(changed).rowcount == 0:
                key = {
                    "tenant": identity.tenant,
                    "device": identity.device,
                    "name": opening.session,
                }
                dialect = connection.dialect.name
                connection.execute(insert_once(dialect, SESSIONS, {**key, **values}))

    def load(
        self, connection: sa.Connection, identity: Identity, opening: Opening, *, now: float
    ) -> tuple[int, ...]:
        """Read the ids of a session that was opened with these very words; empty when there are none."""
        sealed = connection.scalar(
            sa.select(SESSIONS.c.ids).where(
                _is(identity, opening),
                SESSIONS.c.opening_sha256 == _digest(opening),
                SESSIONS.c.expires > now,
            )
        )
        if sealed is None:
            return ()
        purpose = f"{_PURPOSE} {identity.device} {opening.session}"
        plain = self._envelope.open(connection, identity.tenant, purpose, sealed)
        return tuple(np.frombuffer(plain, dtype="<u4").tolist())

    def purge(self, connection: sa.Connection, *, now: float) -> int:
        """Delete what has expired; how many."""
        return connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.expires <= now)).rowcount


def _digest(opening: Opening) -> bytes:
    message = opening_to_message(opening)
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def _is(identity: Identity, opening: Opening) -> sa.ColumnElement[bool]:
    return sa.and_(
        SESSIONS.c.tenant == identity.tenant,
        SESSIONS.c.device == identity.device,
        SESSIONS.c.name == opening.session,
    )
