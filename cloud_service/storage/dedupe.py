"""Each request takes effect once: at-least-once delivery and this table together.

    new                         do it; the row says ``doing`` until the answer is stored
    done, same content          the stored answer again
    done or doing, other        RequestIdReusedError: an id names one content
    doing, lease running        InProgressError: wait, another call answers it
    doing, lease over           taken over: its server died or lost the caller

A short effect (a report) shares its transaction with the row. A long one (Generate) takes a short lease and renews it while it
works, so that a replica that died holds nobody up for long; every later change names the attempt that holds the lease, so
an attempt that was overtaken changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cloud_service.identity import Identity
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.state_store import DEDUPE, StateStore
from protos.errors import InProgressError, RequestIdReusedError

RETRY_AFTER_S = 1.0
_PURPOSE = "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """One request of one device, and the content that its id stands for."""

    identity: Identity
    request_id: str
    method: str
    payload_sha256: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """The right to answer one request; ends by ``complete`` or ``abandon``."""

    key: RequestKey
    owner: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer that was given before."""

    response: bytes


class Dedupe:
    """The table of request ids; its functions run inside a transaction of the store."""

    def __init__(self, store: StateStore, envelope: Envelope) -> None:
        self._store = store
        self._envelope = envelope

    def begin(
        self,
        connection: sa.Connection,
        key: RequestKey,
        *,
        now: float,
        lease_s: float,
        ttl_s: float,
    ) -> Attempt | Stored:
        """Insert the request, or read what became of it.

        Raises:
            RequestIdReusedError: The id stands for another content.
            InProgressError: Another attempt holds the lease.
        """
        owner = str(uuid.uuid4())
        values: dict[str, Any] = {
            "tenant": key.identity.tenant,
            "device": key.identity.device,
            "request_id": key.request_id,
            "method": key.method,
            "payload_sha256": key.payload_sha256,
            "state": "doing",
            "owner": owner,
            "response": None,
            "created": now,
            "lease_until": now + lease_s,
            "expires": now + lease_s + ttl_s,
        }
        if connection.execute(self._store.insert_once(DEDUPE, values)).rowcount == 1:
            return Attempt(key, owner)
        row = connection.execute(sa.select(DEDUPE).where(_is(key)).with_for_update()).one()
        if row.expires <= now:  # not purged yet
            connection.execute(sa.update(DEDUPE).where(_is(key)).values(**values))
            return Attempt(key, owner)
        if row.payload_sha256 != key.payload_sha256 or row.method != key.method:
            raise RequestIdReusedError(
                "this request id was used for another request; make a new id for new content"
            )
        if row.state == "done":
            tenant = key.identity.tenant
            return Stored(self._envelope.open(connection, tenant, _PURPOSE, row.response))
        if row.lease_until > now:
            raise InProgressError(
                "this request is being answered; ask again", retry_after_s=RETRY_AFTER_S
            )
        connection.execute(sa.update(DEDUPE).where(_is(key)).values(**values))
        return Attempt(key, owner)

    def complete(
        self, connection: sa.Connection, attempt: Attempt, response: bytes, *, expires: float
    ) -> bool:
        """Store the answer; False when the attempt was overtaken, and then nothing is stored."""
        key = attempt.key
        sealed = self._envelope.seal(connection, key.identity.tenant, _PURPOSE, response)
        statement = (
            sa.update(DEDUPE)
            .where(_is(key), DEDUPE.c.owner == attempt.owner)
            .values(state="done", response=sealed, expires=expires)
        )
        return connection.execute(statement).rowcount == 1

    def renew(
        self, connection: sa.Connection, attempts: Collection[Attempt], *, until: float
    ) -> None:
        """Hold the leases of attempts that still work; one that was overtaken stays so."""
        for attempt in attempts:
            outlives = sa.case((DEDUPE.c.expires < until, until), else_=DEDUPE.c.expires)
            connection.execute(
                sa.update(DEDUPE)
                .where(_is(attempt.key), DEDUPE.c.owner == attempt.owner, DEDUPE.c.state == "doing")
                .values(lease_until=until, expires=outlives)
            )

    def abandon(self, connection: sa.Connection, attempt: Attempt) -> None:
        """Give the id back unanswered, so that the next attempt need not wait for the lease."""
        connection.execute(
            sa.delete(DEDUPE).where(
                _is(attempt.key), DEDUPE.c.owner == attempt.owner, DEDUPE.c.state == "doing"
            )
        )

    def end_leases(self, connection: sa.Connection) -> int:
        """Give back every id that a former process of an exclusive database was answering; how many."""
        return connection.execute(sa.delete(DEDUPE).where(DEDUPE.c.state == "doing")).rowcount

    def purge(self, connection: sa.Connection, *, now: float) -> int:
        """Delete what has expired; how many."""
        return connection.execute(sa.delete(DEDUPE).where(DEDUPE.c.expires <= now)).rowcount


def _is(key: RequestKey) -> sa.ColumnElement[bool]:
    return sa.and_(
        DEDUPE.c.tenant == key.identity.tenant,
        DEDUPE.c.device == key.identity.device,
        DEDUPE.c.request_id == key.request_id,
    )
