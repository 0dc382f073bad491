"""What the outbox keeps: the states and kinds of an item, its stored form, limits and counts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class State(enum.StrEnum):
    """Where an item stands."""

    READY = "READY"
    LEASED = "LEASED"
    DONE = "DONE"  # answered; the answer waits to be collected
    DEAD = "DEAD"  # given up; a person must look at it


class Kind(enum.StrEnum):
    """What an item is."""

    GENERATE = "generate"
    REPORT = "report"


class WhenFull(enum.StrEnum):
    """What happens when a new item meets the limit."""

    REJECT_NEW = "reject_new"
    BURY_OLDEST = "bury_oldest"


# A request somebody waits for must fail loudly; of reports, the newest are worth more than the oldest.
WHEN_FULL = {Kind.GENERATE: WhenFull.REJECT_NEW, Kind.REPORT: WhenFull.BURY_OLDEST}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLimits:
    """How much may wait, and for how long."""

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 90 * 86400.0  # as long as the cloud remembers the ids of queued requests
    lease_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item as stored; the blobs are encrypted."""

    id: bytes
    epoch: int
    seq: int
    kind: Kind
    state: State
    payload: bytes = field(repr=False)
    vault: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    created: float
    lease_until: float
    attempts: int
    finished: float | None
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """How full the outbox is."""

    waiting: int  # READY or LEASED
    waiting_by_kind: dict[Kind, int]
    done: int
    dead: int
    stored_bytes: int
    oldest_waiting_s: float  # 0 when nothing waits
