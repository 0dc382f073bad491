"""The rows of the oversight file: states as JSON, checked whenever they are read."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.calibration.drift import ScoreDrift
from partition.errors import OversightError
from partition.oversight.adaptive import AdaptiveThreshold
from partition.oversight.alarm import STAKES, ErrorAlarm
from partition.oversight.budget import BudgetState

_SCHEMA = """
create table if not exists watch (task text primary key, state text not null) strict;
create table if not exists audit (
    name text primary key, task text not null, fingerprint text not null, answer text not null, due_s real not null
) strict;
create table if not exists adaptive (task text primary key, fingerprint text not null, state text not null) strict;
create table if not exists spending (one integer primary key check (one = 1), state text not null) strict;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One task's certificate under watch."""

    fingerprint: str
    thresholds: tuple[float, ...]  # certified, loosest first
    alarm: ErrorAlarm
    drift: ScoreDrift
    step: int = 0  # which of the thresholds is in force; past the last one: suspended

    @property
    def threshold(self) -> float | None:
        """Least score that stands now; None: suspended."""
        return self.thresholds[self.step] if self.step < len(self.thresholds) else None


def create_tables(connection: sqlite3.Connection) -> None:
    """Create what is missing, inside the caller's transaction (``executescript`` would commit it)."""
    for statement in filter(str.strip, _SCHEMA.split(";")):
        connection.execute(statement)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _AlarmRow(_Part):
    max_error: Annotated[float, Field(gt=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    restart: Annotated[int, Field(ge=0)]
    shares: Annotated[tuple[float, ...], Field(min_length=len(STAKES), max_length=len(STAKES))]
    log_wealth: Annotated[tuple[float, ...], Field(min_length=len(STAKES), max_length=len(STAKES))]
    num_audits: int
    num_errors: float
    is_raised: bool


class _DriftRow(_Part):
    edges: tuple[float, ...]
    shares: Annotated[tuple[float, ...], Field(min_length=1)]
    counts: tuple[float, ...]


class _WatchRow(_Part):
    fingerprint: str
    thresholds: tuple[float, ...]
    alarm: _AlarmRow
    drift: _DriftRow
    step: Annotated[int, Field(ge=0)]


class _SpendingRow(_Part):
    day: int
    spent_micro_usd: Annotated[int, Field(ge=0)]
    audits_micro_usd: Annotated[int, Field(ge=0)]
    price: float
    mean_cost_micro_usd: float
    forecast: tuple[float, ...]
    today: Annotated[tuple[int, ...], Field(min_length=24, max_length=24)]


class _AdaptiveRow(_Part):
    threshold: float
    max_error: Annotated[float, Field(gt=0, lt=1)]
    audit_rate: Annotated[float, Field(gt=0, le=1)]
    eta: Annotated[float, Field(gt=0)]
    decay: Annotated[float, Field(ge=0)]
    start: float
    num_local: Annotated[int, Field(ge=0)]
    total_decay: Annotated[float, Field(ge=0)]
    num_pending: Annotated[int, Field(ge=0)]
    most_pending: Annotated[int, Field(ge=0)]


_Row = TypeVar("_Row", bound=_Part)


def _parsed(kind: type[_Row], text: str) -> _Row:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise OversightError(
            "the oversight file holds a state that cannot be read; move it away to start anew"
        ) from error


def read_watch(connection: sqlite3.Connection, task: str) -> Watch | None:
    """The task's watch; None: there is none."""
    row = connection.execute("select state from watch where task = ?", (task,)).fetchone()
    if row is None:
        return None
    found = _parsed(_WatchRow, row[0])
    return Watch(
        fingerprint=found.fingerprint,
        thresholds=found.thresholds,
        alarm=ErrorAlarm(**found.alarm.model_dump()),
        drift=ScoreDrift(**found.drift.model_dump()),
        step=found.step,
    )


def write_watch(connection: sqlite3.Connection, task: str, watch: Watch) -> None:
    """Store the task's watch."""
    connection.execute(
        "insert into watch values (?, ?) on conflict (task) do update set state = excluded.state",
        (task, _WatchRow.model_validate(asdict(watch)).model_dump_json()),
    )


def num_pending(connection: sqlite3.Connection, task: str) -> int:
    """Audits of the task that wait for their label."""
    row = connection.execute("select count(*) from audit where task = ?", (task,)).fetchone()
    return int(row[0])


def read_spending(connection: sqlite3.Connection) -> BudgetState:
    """What was spent; nothing at first."""
    row = connection.execute("select state from spending").fetchone()
    if row is None:
        return BudgetState()
    return BudgetState(**_parsed(_SpendingRow, row[0]).model_dump())


def write_spending(connection: sqlite3.Connection, state: BudgetState) -> None:
    """Store what was spent."""
    connection.execute(
        "insert into spending values (1, ?) on conflict (one) do update set state = excluded.state",
        (_SpendingRow.model_validate(asdict(state)).model_dump_json(),),
    )


def read_adaptive(
    connection: sqlite3.Connection, task: str
) -> tuple[str, AdaptiveThreshold] | None:
    """Fingerprint and state of the task's adaptive threshold; None: there is none."""
    row = connection.execute(
        "select fingerprint, state from adaptive where task = ?", (task,)
    ).fetchone()
    if row is None:
        return None
    return row[0], AdaptiveThreshold(**_parsed(_AdaptiveRow, row[1]).model_dump())


def write_adaptive(
    connection: sqlite3.Connection,
    task: str,
    fingerprint: str,
    state: AdaptiveThreshold,
) -> None:
    """Store the task's adaptive threshold."""
    connection.execute(
        "insert into adaptive values (?, ?, ?) on conflict (task) do update "
        "set fingerprint = excluded.fingerprint, state = excluded.state",
        (
            task,
            fingerprint,
            _AdaptiveRow.model_validate(asdict(state)).model_dump_json(),
        ),
    )
