"""The outbox: what still has to reach the cloud, on disk and encrypted, until the cloud's answer is on disk as well.

    put -> READY -> lease -> LEASED -> done -> DONE -> collect, forget
                      ^________|  fail       |
                               |____________ DEAD    bury; too old; pushed out: kept for a person, never dropped silently

Every call returns after its change is on disk (WAL, synchronous=FULL). Delivery is at least once; the cloud's memory of request ids makes each effect happen once.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

from edge_agent.cloud.cloud import WireIds
from edge_agent.keystore import KeyStore
from edge_agent.metrics import Metrics
from edge_agent.outbox.group_commit import GroupCommit, connect, translated
from edge_agent.outbox.items import Kind, OutboxCounts, OutboxLimits, Row, State
from edge_agent.outbox.table import OutboxTable
from edge_agent.sealing import Sealable

__all__ = ["Collected", "Kind", "Leased", "Outbox", "OutboxCounts", "OutboxLimits", "State"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Opener = Callable[[bytes, bytes, bytes], T]  # (sealed, key, aad) -> content


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """Encrypted bytes with what it takes to open them; the key never shows."""

    content: bytes = field(repr=False)
    key: bytes = field(repr=False)
    aad: bytes = field(repr=False)

    def open(self, opener: Opener[T]) -> T:
        """Decrypt with the class that sealed it, say ``Vault.from_sealed``."""
        return opener(self.content, self.key, self.aad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """One item that this process delivers now."""

    id: bytes = field(repr=False)
    kind: Kind
    payload: _Sealed
    attempt: int  # 1 for the first delivery
    lease_until: float
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The late answer of one request, with the vault to restore it."""

    answer: _Sealed
    vault: _Sealed | None
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadItem:
    """One item that was given up."""

    wire_id: str
    kind: Kind
    reason: str
    attempts: int
    created: float


class Outbox:
    """The queue of one device in one file. Thread-safe; several processes may open the same file."""

    def __init__(
        self,
        path: Path,
        *,
        keys: KeyStore,
        wire_ids: WireIds,
        tenant: str = "",
        device: str = "",
        limits: OutboxLimits | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
        busy_timeout_s: float = 5.0,
    ) -> None:
        """Open the file, or make it, and start the writer thread; :meth:`close` ends it.

        Raises:
            OutboxError: One of its kinds; nothing in the file has changed then.
        """
        self._path = path
        self._wire_ids = wire_ids
        self._owner = f"{len(tenant)}:{tenant}{len(device)}:{device}"
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._payload_key = keys.derive("outbox/payload")
        self._vault_key = keys.derive("outbox/vault")
        self._answer_key = keys.derive("outbox/answer")
        self._content_key = keys.derive("outbox/content")
        with translated(path):
            connection = connect(path, busy_timeout_s)
        table = OutboxTable(
            connection, path, tenant=tenant, device=device, limits=limits or OutboxLimits()
        )
        try:
            with translated(path):
                connection.execute("BEGIN IMMEDIATE")
                table.set_up(hmac.digest(keys.derive("outbox/check"), b"check", sha256))
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._commits = GroupCommit(connection, table, path, clock)

    def __enter__(self) -> Self:
        """Return the outbox itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    @property
    def path(self) -> Path:
        """Where the database lies."""
        return self._path

    def close(self) -> None:
        """Finish what was begun and close the file. A second call does nothing."""
        self._commits.close()

    def put(
        self,
        request_id: str,
        *,
        kind: Kind,
        payload: Sealable,
        content: bytes,
        vault: Sealable | None = None,
    ) -> bool:
        """Store one item; it is on disk when this returns.

        Args:
            request_id: Whose; the same id is stored once.
            kind: What it is.
            payload: What shall be sent; encrypts itself.
            content: What makes it the same request when it comes again; only a keyed hash of it is stored.
            vault: What restores the answer; encrypts itself, under another key.

        Returns:
            False when the same request waits there already.

        Raises:
            OutboxError: One of its kinds; the item is not stored then.
        """
        item_id = self._item_id(request_id)
        sealed = payload.to_sealed(self._payload_key, self._aad(item_id, kind))
        sealed_vault = (
            vault.to_sealed(self._vault_key, self._aad(item_id, kind)) if vault is not None else b""
        )
        mac = hmac.digest(self._content_key, content, sha256)
        return self._commits.run(
            lambda table, now: table.put(
                item_id, kind=kind, payload=sealed, content_mac=mac, vault=sealed_vault, now=now
            )
        )

    def lease(self, kind: Kind) -> Leased | None:
        """Take the oldest item of a kind that is due; None when there is none. Held for ``lease_s``."""
        row = self._commits.run(lambda table, now: table.lease(kind, now))
        if row is None:
            return None
        return Leased(
            id=row.id,
            kind=row.kind,
            payload=_Sealed(
                content=row.payload, key=self._payload_key, aad=self._aad(row.id, row.kind)
            ),
            attempt=row.attempts,
            lease_until=row.lease_until,
            waited_s=max(0.0, self._clock() - row.created),
        )

    def done(self, leased: Leased, answer: Sealable | None = None) -> bool:
        """Store the answer until it is collected, and delete what was sent; without an answer delete the item.

        An answer counts even when the lease is over: it is this request's answer. False: another one came first.
        """
        sealed = (
            answer.to_sealed(self._answer_key, self._aad(leased.id, leased.kind))
            if answer is not None
            else None
        )
        return self._commits.run(lambda table, now: table.done(leased.id, sealed, now))

    def fail(
        self, leased: Leased, *, reason: str, pause_s: float = 0.0, counts: bool = True
    ) -> bool:
        """Put an item back after a failed delivery.

        Args:
            leased: Which one.
            reason: One sentence without request text.
            pause_s: How long it is left alone.
            counts: Whether the failure is the item's own; False leaves its number of attempts as before.

        Returns:
            False when the lease is over and another delivery has it.
        """
        return self._commits.run(
            lambda table, now: table.fail(
                leased.id,
                attempt=leased.attempt,
                reason=reason,
                pause_s=pause_s,
                now=now,
                counts=counts,
            )
        )

    def bury(self, leased: Leased, *, reason: str) -> bool:
        """Give an item up and raise the alarm; False when the lease is over and another delivery has it."""
        is_dead = self._commits.run(
            lambda table, now: table.bury(leased.id, attempt=leased.attempt, reason=reason, now=now)
        )
        if is_dead:
            self._metrics.outbox_died()
        return is_dead

    def expire(self) -> int:
        """Give up what has waited for too long, and delete answers nobody came for; return how many were given up."""

        def expire(table: OutboxTable, now: float) -> tuple[int, int]:
            return table.bury_expired(now), table.drop_uncollected(now)

        num_dead, num_dropped = self._commits.run(expire)
        if num_dead:
            self._metrics.outbox_died(num_dead)
            logger.error("%d items of the outbox were given up: they waited too long", num_dead)
        if num_dropped:
            logger.warning("%d late answers were deleted: nobody collected them", num_dropped)
        return num_dead

    def release_leases(self) -> int:
        """Put back what a dead process had leased; only for who knows that no other one delivers."""
        return self._commits.run(lambda table, _now: table.release_leases())

    def state(self, request_id: str) -> State | None:
        """Where a request stands; None when it is not (or no longer) here."""
        row = self._row(request_id)
        return None if row is None else row.state

    def collect(self, request_id: str) -> Collected | None:
        """Return the late answer of a request; None while there is none. It stays until :meth:`forget`."""
        row = self._row(request_id)
        if row is None or row.state is not State.DONE:
            return None
        aad = self._aad(row.id, row.kind)
        return Collected(
            answer=_Sealed(content=row.answer, key=self._answer_key, aad=aad),
            vault=_Sealed(content=row.vault, key=self._vault_key, aad=aad) if row.vault else None,
            waited_s=max(0.0, (row.finished or row.created) - row.created),
        )

    def forget(self, request_id: str) -> bool:
        """Delete an item for good; its content is overwritten. False when there is none."""
        item_id = self._item_id(request_id)
        return self._commits.run(lambda table, _now: table.forget(item_id))

    def dead(self) -> tuple[DeadItem, ...]:
        """List what was given up, without content."""
        rows = self._commits.run(lambda table, _now: table.rows(State.DEAD))
        return tuple(
            DeadItem(
                wire_id=str(UUID(bytes=row.id)),
                kind=row.kind,
                reason=row.last_error,
                attempts=row.attempts,
                created=row.created,
            )
            for row in rows
        )

    def revive(self, request_id: str) -> bool:
        """Let a dead item wait again; False when it is not dead, or its content is gone."""
        item_id = self._item_id(request_id)
        return self._commits.run(lambda table, now: table.revive(item_id, now))

    def counts(self) -> OutboxCounts:
        """Count what is in the outbox, and tell the metrics."""
        counts = self._commits.run(lambda table, now: table.counts(now))
        self._metrics.outbox_counted(counts.waiting_by_kind, oldest_s=counts.oldest_waiting_s)
        return counts

    def check_integrity(self) -> None:
        """Check the whole file.

        Raises:
            OutboxCorruptError: It is damaged.
        """
        self._commits.run(lambda table, _now: table.check_integrity())

    def _row(self, request_id: str) -> Row | None:
        item_id = self._item_id(request_id)
        return self._commits.run(lambda table, _now: table.get(item_id))

    def _item_id(self, request_id: str) -> bytes:
        return UUID(self._wire_ids.of(request_id)).bytes

    def _aad(self, item_id: bytes, kind: Kind) -> bytes:
        return b"".join((item_id, self._owner.encode(), kind.encode()))
