"""Who did what to the rollouts of a channel; nothing here is ever changed or deleted."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cloud_service.fleet.tables import AUDIT


def note(
    connection: sa.Connection, channel: str, actor: str, action: str, detail: str, *, at: float
) -> None:
    """Add one step; ``at`` is Unix seconds."""
    connection.execute(
        sa.insert(AUDIT).values(at=at, channel=channel, actor=actor, action=action, detail=detail)
    )


def latest(connection: sa.Connection, channel: str, count: int = 20) -> list[dict[str, Any]]:
    """Return the newest steps of a channel, newest first."""
    rows = connection.execute(
        sa.select(AUDIT)
        .where(AUDIT.c.channel == channel)
        .order_by(AUDIT.c.number.desc())
        .limit(count)
    )
    return [
        {"at": row.at, "actor": row.actor, "action": row.action, "detail": row.detail}
        for row in rows
    ]
