"""Outcomes that devices report, kept per tenant and sealed."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from cloud_service.identity import Identity
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.state_store import OUTCOMES

_PURPOSE = "outcome"


def store_outcomes(
    connection: sa.Connection,
    envelope: Envelope,
    identity: Identity,
    request_id: str,
    outcomes: Sequence[tuple[str, bytes]],
    *,
    now: float,
) -> None:
    """Insert one report's outcomes as (task, serialized outcome); the caller's transaction holds the request id too."""
    rows = [
        {
            "tenant": identity.tenant,
            "device": identity.device,
            "request_id": request_id,
            "position": position,
            "task": task,
            "received": now,
            "content": envelope.seal(connection, identity.tenant, _PURPOSE, content),
        }
        for position, (task, content) in enumerate(outcomes)
    ]
    if rows:
        connection.execute(sa.insert(OUTCOMES), rows)


def read_outcomes(
    connection: sa.Connection, envelope: Envelope, tenant: str, task: str
) -> list[bytes]:
    """Read all outcomes of one tenant's task, oldest report first, as they were serialized."""
    statement = (
        sa.select(OUTCOMES.c.content)
        .where(OUTCOMES.c.tenant == tenant, OUTCOMES.c.task == task)
        .order_by(OUTCOMES.c.received, OUTCOMES.c.request_id, OUTCOMES.c.position)
    )
    sealed = connection.scalars(statement).all()
    return [envelope.open(connection, tenant, _PURPOSE, content) for content in sealed]
