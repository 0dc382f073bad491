"""What the device remembers of a release, and the order in which a release may go through its states.

FETCHING -> STAGED -> GATED -> TRIAL -> CONFIRMED;   any -> FAILED;   TRIAL, CONFIRMED -> ROLLED_BACK
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from edge_agent.sync.errors import SyncFolderError

BOOTS_OF_A_TRIAL = 3


class State(enum.StrEnum):
    """How far a release has come on this device."""

    FETCHING = "FETCHING"
    STAGED = "STAGED"
    GATED = "GATED"
    TRIAL = "TRIAL"
    CONFIRMED = "CONFIRMED"
    FAILED = "FAILED"
    ROLLED_BACK = "ROLLED_BACK"


NEXT: Final[dict[State, frozenset[State]]] = {
    State.FETCHING: frozenset({State.FETCHING, State.STAGED, State.FAILED}),
    State.STAGED: frozenset({State.FETCHING, State.GATED, State.FAILED}),
    State.GATED: frozenset({State.FETCHING, State.GATED, State.TRIAL, State.FAILED}),
    State.TRIAL: frozenset({State.CONFIRMED, State.ROLLED_BACK, State.FAILED}),
    # A release that was confirmed here needs no second gate.
    State.CONFIRMED: frozenset({State.FETCHING, State.TRIAL, State.CONFIRMED, State.ROLLED_BACK}),
    State.FAILED: frozenset({State.FETCHING}),
    State.ROLLED_BACK: frozenset({State.FETCHING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """What the device knows of one release."""

    release: str
    counter: int
    manifest_sha256: str
    state: State
    boots_left: int = 0  # starts that a trial may still try
    soak_s: float = 0.0  # how long it has answered in trial
    answers: int = 0  # in trial
    checks: int = 0  # golden runs passed in trial
    was_confirmed: bool = False
    error_kind: str = ""
    retry_epoch: int = 0  # of the document that had it tried last


@dataclass(frozen=True, slots=True)
class Running:
    """What answers, and what answered before; None is the model that the device was made with."""

    release: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class Floor:
    """The highest version seen of a role while these keys signed it."""

    role: str
    keys: str  # digest of the key ids
    version: int


def check_move(record: ReleaseRecord, state: State) -> None:
    """Refuse a step that skips one.

    Raises:
        SyncFolderError: A release in this state cannot become that.
    """
    if state not in NEXT[record.state]:
        raise SyncFolderError(
            f"{record.release} is {record.state} here and cannot become {state}; run `edge-agent sync`"
        )
