"""Opens what watches local answers and spending, from the configuration: audits, adaptive thresholds, budget, the audit desk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.config import Auditor, EdgeConfig
from edge_agent.errors import ConfigError
from partition.errors import PartitionError

if TYPE_CHECKING:
    from edge_agent.audit_desk import AuditDesk
    from edge_agent.keystore import KeyStore
    from edge_agent.purse import Purse
    from partition.oversight.adaptive import AdaptiveThreshold
    from partition.oversight.oversight import Oversight
    from partition.oversight.oversight_file import OversightFile
    from partition.task import Task

OVERSIGHT_FILE = "oversight.db"
DESK_FILE = "audit-desk.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """What watches one device; each part None where the configuration does not ask for it."""

    oversight: Oversight | None = None
    desk: AuditDesk | None = None  # where audits wait for a person
    purse: Purse | None = None


def open_supervision(config: EdgeConfig, keys: KeyStore) -> Supervision:
    """Open the files in the state folder, as far as anything is to be watched.

    Raises:
        ConfigError: A setting is out of range, or a file cannot be used.
        OutboxError: The audit desk cannot be opened.
    """
    if config.adaptive.tasks and config.audit.rate == 0.0:
        raise ConfigError(
            "an adaptive threshold learns from audits alone; set `rate = 0.05` in section [audit], or remove [adaptive]"
        )
    if config.audit.rate == 0.0 and config.budget.daily_usd is None:
        return Supervision()
    from partition.oversight.oversight_file import OversightFile

    try:
        file = OversightFile(config.state_folder / OVERSIGHT_FILE)
        oversight = _open_oversight(config, keys, file) if config.audit.rate > 0.0 else None
        return Supervision(
            oversight=oversight,
            desk=_open_desk(config, keys),
            purse=_open_purse(config, file, oversight),
        )
    except PartitionError as error:
        raise ConfigError(str(error)) from error


def _open_oversight(config: EdgeConfig, keys: KeyStore, file: OversightFile) -> Oversight:
    from partition.oversight.audit import AuditPlan
    from partition.oversight.oversight import Oversight

    plan = AuditPlan(
        secret=keys.derive("audit"),
        rate=config.audit.rate,
        deadline_s=config.audit.deadline_days * 86400,
    )
    return Oversight(file, plan=plan, clock=time.time, on_alarm=config.audit.on_alarm)


def _open_desk(config: EdgeConfig, keys: KeyStore) -> AuditDesk | None:
    if config.audit.rate == 0.0 or config.audit.by is not Auditor.PERSON:
        return None
    from edge_agent.audit_desk import AuditDesk

    return AuditDesk(config.state_folder / DESK_FILE, key=keys.derive("audit-desk"))


def _open_purse(
    config: EdgeConfig, file: OversightFile, oversight: Oversight | None
) -> Purse | None:
    if config.budget.daily_usd is None:
        return None
    from edge_agent.purse import MICRO, Purse
    from partition.oversight.budget import BudgetPolicy
    from partition.oversight.spending_book import SpendingBook

    policy = BudgetPolicy(
        daily_micro_usd=round(config.budget.daily_usd * MICRO),
        audit_ratio=config.budget.audit_ratio if oversight is not None else 0.0,
        gives_way=config.budget.gives_way,
    )
    book = SpendingBook(file, policy=policy, clock=time.time)
    return Purse(
        book,
        config.budget,
        is_audit=oversight.waits_for if oversight is not None else lambda request_id: False,
    )


def adaptive_rules(config: EdgeConfig, tasks: Mapping[str, Task]) -> dict[str, AdaptiveThreshold]:
    """Where each adaptive threshold starts, by task.

    Raises:
        ConfigError: There is no such task.
    """
    from partition.oversight.adaptive import MAX_STEP, AdaptiveThreshold

    settings = config.adaptive
    unknown = sorted(set(settings.tasks) - set(tasks))
    if unknown:
        raise ConfigError(
            f"[adaptive] names no task of this agent: {', '.join(unknown)}; correct `tasks` there"
        )
    return {
        name: AdaptiveThreshold(
            threshold=settings.start,
            max_error=settings.max_error,
            audit_rate=config.audit.rate,
            eta=MAX_STEP * config.audit.rate,
        )
        for name in settings.tasks
    }
