"""How far a release has come, device by device, and how the devices do that do not have it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cloud_service.fleet.rollout import Baseline, DeviceProgress, Verdict
from cloud_service.fleet.tables import DEVICES, VERDICTS
from partition.release.desired import Desired, choose_release

ONLINE_S = 2 * 3600.0  # a device polls every hour


def progress_of(
    connection: sa.Connection, channel: str, release: str, desired: Desired | None, *, now: float
) -> tuple[list[DeviceProgress], Baseline]:
    """Return every device that a release was meant for so far, and what the others look like."""
    rows = connection.execute(sa.select(DEVICES).where(DEVICES.c.channel == channel)).all()
    verdicts = {
        (row.tenant, row.device): row
        for row in connection.execute(
            sa.select(VERDICTS).where(VERDICTS.c.channel == channel, VERDICTS.c.release == release)
        )
    }
    devices, outside = [], []
    for row in rows:
        verdict = verdicts.get((row.tenant, row.device))
        is_meant = (
            desired is not None and choose_release(desired, f"{row.tenant}/{row.device}") == release
        )
        if verdict is None and not is_meant:
            outside.append(row)
            continue
        runs_it = row.release == release
        devices.append(
            DeviceProgress(
                hardware_class=row.hardware_class,
                has_begun=verdict is not None,
                verdict=Verdict(verdict.verdict) if verdict is not None else Verdict.PENDING,
                error_kind=verdict.error_kind if verdict is not None else "",
                began_s=verdict.began if verdict is not None else 0.0,
                is_online=now - row.received < ONLINE_S,
                cloud_share=row.cloud_share if runs_it else None,
                p95_ms=row.latency_p95_ms or None if runs_it else None,
            )
        )
    return devices, _baseline(outside)


def _baseline(rows: list[Any]) -> Baseline:
    shares = [row.cloud_share for row in rows if row.cloud_share is not None]
    times = sorted(row.latency_p95_ms for row in rows if row.latency_p95_ms)
    if not shares:
        return Baseline(p95_ms=times[len(times) // 2] if times else 0.0)
    return Baseline(
        num_devices=len(shares),
        cloud_share=sum(shares) / len(shares),
        p95_ms=times[len(times) // 2] if times else 0.0,
    )
