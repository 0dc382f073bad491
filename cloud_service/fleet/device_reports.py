"""What devices say about themselves, and the one verdict that each gives on a release."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from cloud_service.fleet.rollout import Verdict
from cloud_service.fleet.tables import DEVICES, VERDICTS
from cloud_service.identity import Identity

FRESH_S = 3600.0  # after this, a lower report number is that of a device that began anew
_PENDING_STATES = ("FETCHING", "STAGED", "GATED", "TRIAL")
_VERDICTS = {
    **dict.fromkeys(_PENDING_STATES, Verdict.PENDING),
    "CONFIRMED": Verdict.GOOD,
    "FAILED": Verdict.FAILED,
    "ROLLED_BACK": Verdict.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What a device says about itself; its identity comes from its certificate."""

    channel: str
    report_seq: int
    release: str
    state: str
    previous_release: str = ""
    release_counter: int = 0
    min_release_counter: int = 0
    error_kind: str = ""
    hardware_class: str = ""
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    cloud_share: float | None = None
    free_disk_bytes: int = 0
    free_memory_bytes: int = 0


def record_report(
    connection: sa.Connection, identity: Identity, report: DeviceReport, *, now: float
) -> int:
    """Take a report; harmless when repeated, late, or out of order.

    Returns:
        The newest report number known of the device.
    """
    where = sa.and_(DEVICES.c.tenant == identity.tenant, DEVICES.c.device == identity.device)
    known = connection.execute(sa.select(DEVICES).where(where)).one_or_none()
    is_news = (
        known is None or report.report_seq > known.report_seq or now - known.received > FRESH_S
    )
    values = {field: getattr(report, field) for field in DeviceReport.__slots__}
    values["received"] = now
    if known is None:
        key = {"tenant": identity.tenant, "device": identity.device}
        connection.execute(sa.insert(DEVICES).values(**key, **values))
    elif is_news:
        connection.execute(sa.update(DEVICES).where(where).values(**values))
    if report.release:
        _judge(connection, identity, report, now)
    return report.report_seq if known is None or is_news else int(known.report_seq)


def _judge(connection: sa.Connection, identity: Identity, report: DeviceReport, now: float) -> None:
    """Keep one verdict: it may come, and a failure may replace a success, but nothing undoes a failure."""
    verdict = _VERDICTS[report.state]
    where = sa.and_(
        VERDICTS.c.tenant == identity.tenant,
        VERDICTS.c.device == identity.device,
        VERDICTS.c.release == report.release,
    )
    row = connection.execute(sa.select(VERDICTS).where(where)).one_or_none()
    if row is None:
        connection.execute(
            sa.insert(VERDICTS).values(
                tenant=identity.tenant,
                device=identity.device,
                release=report.release,
                channel=report.channel,
                began=now,
                verdict=verdict.value,
                error_kind=report.error_kind,
            )
        )
        return
    before = Verdict(row.verdict)
    if (before is Verdict.PENDING and verdict is not Verdict.PENDING) or (
        before is Verdict.GOOD and verdict.is_failure
    ):
        connection.execute(
            sa.update(VERDICTS)
            .where(where)
            .values(verdict=verdict.value, error_kind=report.error_kind)
        )
