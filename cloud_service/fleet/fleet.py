"""Runs rollouts: opens rings, stops what is worse, and writes every step into the audit log.

The rollout's row says what is meant; the signed document follows it and is made to agree at every look, so that a crash
between the two heals itself. Going back is a *higher* version of the document that names an older release.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from cloud_service.errors import RolloutError
from cloud_service.fleet.audit_log import latest, note
from cloud_service.fleet.progress import progress_of
from cloud_service.fleet.ring_rate import buckets_open
from cloud_service.fleet.rollout import (
    Action,
    Baseline,
    DeviceProgress,
    Policy,
    Step,
    buckets_for,
    decide,
)
from cloud_service.fleet.tables import DEVICES, ROLLOUTS, VERDICTS
from cloud_service.releases.repository import ReleaseRepository
from cloud_service.releases.roles import releases_of
from partition.release.desired import NUM_BUCKETS, Desired, bucket_of, device_digest

SYSTEM = "rollout"  # the actor of what happens by itself
_POLICY = TypeAdapter(Policy)


class RolloutState(enum.StrEnum):
    """How a rollout stands."""

    RUNNING = "RUNNING"
    HELD = "HELD"
    ABORTED = "ABORTED"
    DONE = "DONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A release on its way through the rings of a channel."""

    channel: str
    release: str
    base: str
    policy: Policy
    ring: int  # index into policy.steps_percent
    ring_began: float
    state: RolloutState
    reason: str = ""


class Fleet:
    """The rollouts of one repository. Its methods run inside a transaction of the store."""

    def __init__(
        self, repository: ReleaseRepository, *, now: Callable[[], float] = time.time
    ) -> None:
        """Take the repository, with its director's key where rings shall be opened, and a clock."""
        self._repository = repository
        self._now = now

    # What an operator does

    def begin(
        self, connection: sa.Connection, channel: str, release: str, policy: Policy, *, actor: str
    ) -> Rollout:
        """Begin a rollout with its first ring; a channel without a document gets the release at once, as its base.

        Raises:
            RolloutError: Another rollout is under way, or the release is the base already.
        """
        current = self.rollout(connection, channel)
        if current is not None and current.state in (RolloutState.RUNNING, RolloutState.HELD):
            raise RolloutError(
                f"{current.release} is still on its way through {channel}; let it end, or roll it back"
            )
        if release not in releases_of(self._repository.targets.signed, channel):
            raise RolloutError(f"{release} is no release of {channel}; publish it first")
        desired = self._repository.desired(channel)
        if desired is not None and desired.base == release:
            raise RolloutError(f"{channel} runs {release} already")
        rollout = Rollout(
            channel=channel,
            release=release,
            base=desired.base if desired is not None else release,
            policy=policy,
            ring=0,
            ring_began=self._now(),
            state=RolloutState.RUNNING if desired is not None else RolloutState.DONE,
        )
        connection.execute(
            sa.delete(VERDICTS).where(VERDICTS.c.channel == channel, VERDICTS.c.release == release)
        )
        self._put(connection, rollout)
        self._note(connection, channel, actor, "BEGIN", f"{rollout.base} -> {release}")
        self._apply(connection, rollout)
        return rollout

    def advance(self, connection: sa.Connection, channel: str, *, actor: str) -> Rollout:
        """Open the next ring, or end the rollout after the last; also resumes one on hold.

        Raises:
            RolloutError: No rollout is under way.
        """
        return self._advance(connection, self._under_way(connection, channel), actor, "by hand")

    def hold(self, connection: sa.Connection, channel: str, *, actor: str) -> Rollout:
        """Have no further device begin.

        Raises:
            RolloutError: No rollout is under way.
        """
        rollout = self._under_way(connection, channel)
        return self._change(connection, rollout, actor, "HOLD", "by hand", state=RolloutState.HELD)

    def resume(self, connection: sa.Connection, channel: str, *, actor: str) -> Rollout:
        """Go on with the ring that was held.

        Raises:
            RolloutError: No rollout is under way.
        """
        rollout = self._under_way(connection, channel)
        return self._change(
            connection, rollout, actor, "RESUME", "by hand", state=RolloutState.RUNNING
        )

    def roll_back(
        self, connection: sa.Connection, channel: str, *, actor: str, to: str | None = None
    ) -> Rollout:
        """Have every device of the channel run an older release: the rollout's base, or ``to``.

        Raises:
            RolloutError: There was no rollout to go back from, and ``to`` was not given.
        """
        rollout = self.rollout(connection, channel)
        desired = self._repository.desired(channel)
        if desired is None or (rollout is None and to is None):
            raise RolloutError(
                f"{channel} had no rollout; say with --to which release it shall run"
            )
        base = to or (rollout.base if rollout is not None else desired.base)
        if base not in releases_of(self._repository.targets.signed, channel):
            raise RolloutError(
                f"{base} is no release of {channel}; see `cloud-service publish list`"
            )
        if rollout is None:
            rollout = Rollout(
                channel=channel,
                release=desired.base,
                base=base,
                policy=Policy(),
                ring=0,
                ring_began=self._now(),
                state=RolloutState.ABORTED,
            )
        rollout = replace(rollout, base=base)
        return self._change(
            connection, rollout, actor, "ROLLBACK", f"to {base}", state=RolloutState.ABORTED
        )

    def pin(
        self,
        connection: sa.Connection,
        channel: str,
        device_id: str,
        release: str | None,
        *,
        actor: str,
    ) -> Desired:
        """Have one device run one release, whatever the rings say; None takes the pin away.

        Raises:
            RolloutError: The channel has no document yet.
        """
        desired = self._repository.desired(channel)
        if desired is None:
            raise RolloutError(f"{channel} runs nothing yet; begin a rollout first")
        pins = {
            digest: name
            for digest, name in desired.pins.items()
            if digest != device_digest(device_id)
        }
        if release is not None:
            pins[device_digest(device_id)] = release
        desired = replace(desired, version=desired.version + 1, pins=pins)
        self._repository.set_desired(channel, desired)
        self._note(connection, channel, actor, "PIN", f"{device_id} -> {release or 'unpinned'}")
        return desired

    # What happens by itself

    def look(self, connection: sa.Connection, channel: str) -> Step:
        """Decide what the rollout of a channel does next, and do it."""
        rollout = self.rollout(connection, channel)
        if rollout is None:
            return Step(action=Action.WAIT, reason="no rollout")
        self._apply(connection, rollout)
        if rollout.state is not RolloutState.RUNNING:
            return Step(action=Action.WAIT, reason=f"the rollout is {rollout.state}")
        devices, baseline = self._progress(connection, rollout)
        step = decide(
            devices,
            rollout.policy,
            ring_began_s=rollout.ring_began,
            is_last_ring=rollout.ring + 1 >= len(rollout.policy.steps_percent),
            now_s=self._now(),
            baseline=baseline,
            is_opening=self._is_opening(connection, rollout),
        )
        if step.action in (Action.ADVANCE, Action.DONE):
            self._advance(connection, rollout, SYSTEM, step.reason)
        elif step.action is Action.HOLD:
            self._change(connection, rollout, SYSTEM, "HOLD", step.reason, state=RolloutState.HELD)
        elif step.action is Action.ABORT:
            self._change(
                connection, rollout, SYSTEM, "ABORT", step.reason, state=RolloutState.ABORTED
            )
        return step

    # Reading

    def rollout(self, connection: sa.Connection, channel: str) -> Rollout | None:
        """Return the channel's newest rollout."""
        row = connection.execute(
            sa.select(ROLLOUTS).where(ROLLOUTS.c.channel == channel)
        ).one_or_none()
        if row is None:
            return None
        return Rollout(
            channel=row.channel,
            release=row.release,
            base=row.base,
            policy=_POLICY.validate_json(row.policy),
            ring=row.ring,
            ring_began=row.ring_began,
            state=RolloutState(row.state),
            reason=row.reason,
        )

    def status(self, connection: sa.Connection, channel: str) -> dict[str, Any]:
        """Describe a channel for people and machines."""
        rollout = self.rollout(connection, channel)
        desired = self._repository.desired(channel)
        running: dict[str, int] = {}
        for row in connection.execute(sa.select(DEVICES).where(DEVICES.c.channel == channel)):
            name = f"{row.release or 'factory'} {row.state}"
            running[name] = running.get(name, 0) + 1
        verdicts: dict[str, int] = {}
        if rollout is not None:
            devices, _ = self._progress(connection, rollout)
            for device in devices:
                name = device.verdict.value if device.has_begun else "NOT_BEGUN"
                verdicts[name] = verdicts.get(name, 0) + 1
        return {
            "channel": channel,
            "base": desired.base if desired is not None else None,
            "candidate": desired.candidate if desired is not None else None,
            "share_percent": 100 * desired.buckets / NUM_BUCKETS if desired is not None else 0.0,
            "state": rollout.state.value if rollout is not None else None,
            "reason": rollout.reason if rollout is not None else "",
            "ring": rollout.ring if rollout is not None else None,
            "verdicts": verdicts,
            "devices": running,
            "audit": latest(connection, channel),
        }

    # Inside

    def _progress(
        self, connection: sa.Connection, rollout: Rollout
    ) -> tuple[list[DeviceProgress], Baseline]:
        desired = self._repository.desired(rollout.channel)
        return progress_of(connection, rollout.channel, rollout.release, desired, now=self._now())

    def _advance(
        self, connection: sa.Connection, rollout: Rollout, actor: str, reason: str
    ) -> Rollout:
        is_last = rollout.ring + 1 >= len(rollout.policy.steps_percent)
        return self._change(
            connection,
            rollout,
            actor,
            "DONE" if is_last else "ADVANCE",
            reason,
            state=RolloutState.DONE if is_last else RolloutState.RUNNING,
            ring=rollout.ring if is_last else rollout.ring + 1,
            ring_began=self._now(),
        )

    def _change(
        self,
        connection: sa.Connection,
        rollout: Rollout,
        actor: str,
        action: str,
        reason: str,
        **changes: Any,
    ) -> Rollout:
        rollout = replace(rollout, reason=reason, **changes)
        self._put(connection, rollout)
        self._note(connection, rollout.channel, actor, action, reason)
        self._apply(connection, rollout)
        return rollout

    def _apply(self, connection: sa.Connection, rollout: Rollout) -> None:
        """Have the signed document say what the rollout means."""
        desired = self._repository.desired(rollout.channel)
        is_open = rollout.state in (RolloutState.RUNNING, RolloutState.HELD)
        buckets = self._buckets(connection, rollout)[0] if is_open else 0
        meant = Desired(
            version=1 if desired is None else desired.version + 1,
            salt=rollout.release,
            base=rollout.release if rollout.state is RolloutState.DONE else rollout.base,
            candidate=rollout.release if is_open else None,
            buckets=buckets,
            pins=desired.pins if desired is not None else {},
            hold=rollout.state is RolloutState.HELD,
            retry_epoch=desired.retry_epoch if desired is not None else 0,
        )
        if desired is not None and desired.candidate == meant.candidate is not None:
            # A ring never shrinks because the fleet has grown: rings nest.
            meant = replace(meant, buckets=max(meant.buckets, desired.buckets))
        if desired is None or replace(meant, version=desired.version) != desired:
            self._repository.set_desired(rollout.channel, meant)

    def _buckets(self, connection: sa.Connection, rollout: Rollout) -> tuple[int, int]:
        """Return how many buckets are open now, and how many when the ring is all open."""
        known = sa.select(DEVICES.c.tenant, DEVICES.c.device).where(
            DEVICES.c.channel == rollout.channel
        )
        places = [
            bucket_of(rollout.release, f"{row.tenant}/{row.device}")
            for row in connection.execute(known)
        ]
        rings = [
            buckets_for(percent, places, NUM_BUCKETS) for percent in rollout.policy.steps_percent
        ]
        whole = rings[rollout.ring]
        is_open = buckets_open(
            rollout.policy.rate,
            self._now() - rollout.ring_began,
            ring=whole,
            before=rings[rollout.ring - 1] if rollout.ring else 0,
            places=places,
        )
        return is_open, whole

    def _is_opening(self, connection: sa.Connection, rollout: Rollout) -> bool:
        is_open, whole = self._buckets(connection, rollout)
        desired = self._repository.desired(rollout.channel)
        return is_open < whole and (desired is None or desired.buckets < whole)

    def _under_way(self, connection: sa.Connection, channel: str) -> Rollout:
        rollout = self.rollout(connection, channel)
        if rollout is None or rollout.state not in (RolloutState.RUNNING, RolloutState.HELD):
            raise RolloutError(
                f"no rollout is under way in {channel}; see `cloud-service fleet status`"
            )
        return rollout

    def _put(self, connection: sa.Connection, rollout: Rollout) -> None:
        connection.execute(sa.delete(ROLLOUTS).where(ROLLOUTS.c.channel == rollout.channel))
        connection.execute(
            sa.insert(ROLLOUTS).values(
                channel=rollout.channel,
                release=rollout.release,
                base=rollout.base,
                policy=_POLICY.dump_json(rollout.policy).decode(),
                ring=rollout.ring,
                ring_began=rollout.ring_began,
                state=rollout.state.value,
                reason=rollout.reason,
            )
        )

    def _note(
        self, connection: sa.Connection, channel: str, actor: str, action: str, detail: str
    ) -> None:
        note(connection, channel, actor, action, detail, at=self._now())
