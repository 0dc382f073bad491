"""Which replicas there are, and in which slot of the balancer each one stands. Pure: the clock is an argument.

A replica says every half second that it is there. One that falls silent gets no new connections; whether those it has are to
be cut is not decided here but by the balancer's own check of its port, because a busy replica may be late and is not dead.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SILENT_S: Final = 3.0  # six announcements missed
GONE_S: Final = 60.0  # its slot may go to another one


class SlotState(enum.StrEnum):
    """What the balancer does with a slot, in HAProxy's words."""

    READY = "ready"
    DRAIN = "drain"  # no new connections; those it has go on
    MAINT = "maint"  # empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What one replica says of itself; addresses are ``host:port``."""

    name: str
    devices: str  # mutual TLS
    backends: str | None  # TLS without client certificates
    health: str
    metrics: str | None
    process_id: int  # on its machine, for operators
    is_ready: bool  # False while it drains


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One place in the balancer's list."""

    state: SlotState
    replica: Announcement | None = None


class Roster:
    """Owner of the list; one thread."""

    def __init__(self, num_slots: int) -> None:
        """Begin with empty slots."""
        self._slots: list[str | None] = [None] * num_slots
        self._known: dict[str, tuple[Announcement, float]] = {}

    def announce(self, replica: Announcement, now_s: float) -> bool:
        """Take an announcement in; False when every slot is taken."""
        if replica.name not in self._known:
            self._forget(now_s)
            if None not in self._slots:
                return False
            self._slots[self._slots.index(None)] = replica.name
        self._known[replica.name] = (replica, now_s)
        return True

    def slots(self, now_s: float) -> Mapping[int, Slot]:
        """What every slot is to be now, by its number from 1 on."""
        self._forget(now_s)
        return {number: self._slot(name, now_s) for number, name in enumerate(self._slots, start=1)}

    def check_integrity(self) -> None:
        """Every known replica stands in exactly one slot, and nobody else does."""
        taken = [name for name in self._slots if name is not None]
        assert sorted(taken) == sorted(self._known), "slots and replicas disagree"

    def _slot(self, name: str | None, now_s: float) -> Slot:
        if name is None:
            return Slot(state=SlotState.MAINT)
        replica, heard_s = self._known[name]
        fit = replica.is_ready and now_s - heard_s < SILENT_S
        return Slot(state=SlotState.READY if fit else SlotState.DRAIN, replica=replica)

    def _forget(self, now_s: float) -> None:
        for name, (_, heard_s) in list(self._known.items()):
            if now_s - heard_s >= GONE_S:
                del self._known[name]
                self._slots[self._slots.index(name)] = None
