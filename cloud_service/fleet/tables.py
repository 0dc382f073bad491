"""What the cloud remembers of the fleet: the last word of each device, one verdict per device and release, rollouts, audit."""

from __future__ import annotations

import sqlalchemy as sa

from cloud_service.storage.state_store import METADATA

_LABEL = sa.String(63)

DEVICES = sa.Table(
    "fleet_devices",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("channel", _LABEL, nullable=False, index=True),
    sa.Column("report_seq", sa.BigInteger, nullable=False),
    sa.Column("received", sa.Float, nullable=False),  # Unix seconds
    sa.Column("release", _LABEL, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("previous_release", _LABEL, nullable=False),
    sa.Column("release_counter", sa.BigInteger, nullable=False),
    sa.Column("min_release_counter", sa.BigInteger, nullable=False),
    sa.Column("error_kind", sa.String(32), nullable=False),
    sa.Column("hardware_class", _LABEL, nullable=False),
    sa.Column("latency_p50_ms", sa.Float, nullable=False),
    sa.Column("latency_p95_ms", sa.Float, nullable=False),
    sa.Column("cloud_share", sa.Float),
    sa.Column("free_disk_bytes", sa.BigInteger, nullable=False),
    sa.Column("free_memory_bytes", sa.BigInteger, nullable=False),
)
VERDICTS = sa.Table(
    "fleet_verdicts",
    METADATA,
    sa.Column("tenant", _LABEL, primary_key=True),
    sa.Column("device", _LABEL, primary_key=True),
    sa.Column("release", _LABEL, primary_key=True),
    sa.Column("channel", _LABEL, nullable=False, index=True),
    sa.Column("began", sa.Float, nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("error_kind", sa.String(32), nullable=False),
)
ROLLOUTS = sa.Table(
    "fleet_rollouts",
    METADATA,
    sa.Column("channel", _LABEL, primary_key=True),
    sa.Column("release", _LABEL, nullable=False),
    sa.Column("base", _LABEL, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),  # JSON
    sa.Column("ring", sa.Integer, nullable=False),
    sa.Column("ring_began", sa.Float, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
AUDIT = sa.Table(
    "fleet_audit",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("channel", _LABEL, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
