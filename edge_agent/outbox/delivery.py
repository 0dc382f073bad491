"""Delivers what waits in the outbox once the cloud is back, and hands out the answers that came late.

Oldest first within a kind; an item that failed for a reason of its own steps aside for its pause. Each effect happens once:
the same request id is sent every time, and the cloud answers a repetition from memory.
"""

from __future__ import annotations

import enum
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from edge_agent.cancellation import Cancellation
from edge_agent.cloud.cloud import Cloud, CloudAnswer, GenerateOptions, Outcome
from edge_agent.errors import ConfigError, InputError, OutboxError, VaultError
from edge_agent.flow import Answer, Request, Route
from edge_agent.outbox.outbox import Kind, Leased, Outbox, OutboxCounts, State
from edge_agent.outbox.queued import LateAnswer, QueuedReport, QueuedRequest, content_of
from edge_agent.purse import Grant
from edge_agent.restore import restore
from edge_agent.sealing import SealBrokenError
from edge_agent.vault import Vault
from partition.task import Task

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from edge_agent.purse import Purse

logger = logging.getLogger(__name__)

_BUDGET_PAUSE_S = 600.0  # between two looks at the budget, for what waits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How persistently the outbox is delivered."""

    first_pause_s: float = 1.0
    max_pause_s: float = 900.0
    idle_pause_s: float = 30.0  # another process may have put something in
    attempt_deadline_s: float = 120.0
    max_attempts: int = 8  # that failed for the item's own reasons


class _Step(enum.Enum):
    """What one step of the delivery found."""

    DELIVERED = enum.auto()  # or settled otherwise: go on at once
    EMPTY = enum.auto()
    UNREACHABLE = enum.auto()  # leave the cloud alone for a while
    ELSEWHERE = enum.auto()  # another process delivers


class Delivery:
    """The way from the outbox to the cloud. Owns the outbox, not the cloud. Thread-safe."""

    def __init__(
        self,
        outbox: Outbox,
        cloud: Cloud | None,
        *,
        settings: DeliverySettings | None = None,
        on_answer: Callable[[str], None] | None = None,
        judge: Callable[[str, str], bool] | None = None,
        purse: Purse | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Put the parts together; starts nothing.

        Args:
            outbox: What to deliver.
            cloud: Where to; None: nothing is ever delivered.
            settings: How persistently.
            on_answer: Called with the request id when a late answer is stored, from the delivering thread.
            judge: Called with the request id and the cloud's text of each late answer. True: the request was sent only to
                audit a local answer, so nobody waits for this one and it is not kept.
            purse: What deliveries may cost; None: no limit.
            jitter: Makes numbers in [0, 1).
        """
        self._outbox = outbox
        self._cloud = cloud
        self._settings = settings or DeliverySettings()
        self._on_answer = on_answer
        self._judge = judge
        self._purse = purse
        self._jitter = jitter
        self._closed = Cancellation()
        self._wake = threading.Event()  # something new waits
        self._hurry = threading.Event()  # the cloud is there, or nothing more will be delivered
        self._thread: threading.Thread | None = None
        self._step_lock = threading.Lock()
        self._retry_after_s = 0.0
        path = outbox.path
        # Held while this process delivers; the kernel releases it when the process dies.
        self._lock = FileLock(
            path.with_name(path.name + ".delivery"), thread_local=False, mode=0o600
        )

    def start(self) -> None:
        """Deliver in a thread from now on. A second call does nothing."""
        if self._thread is None and self._cloud is not None and not self._closed.is_set():
            self._thread = threading.Thread(
                target=self._deliver_forever, name="tandem-delivery", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop delivering and close the outbox; an item under way is put back. A second call does nothing."""
        self._closed.set()
        self.wake()
        if self._thread is not None:
            self._thread.join()
        with self._step_lock:
            self._lock.release(force=True)
        self._outbox.close()

    def put(self, anonymized: Anonymized, vault: Vault, request: Request, task: Task) -> None:
        """Store a request that has to wait; it is on disk when this returns.

        Raises:
            OutboxError: It is not stored.
        """
        self._outbox.put(
            request.id,
            kind=Kind.GENERATE,
            payload=QueuedRequest(anonymized=anonymized, options=GenerateOptions.of(request, task)),
            content=content_of(request),
            vault=vault,
        )
        self._wake.set()

    def put_report(self, report_id: str, outcomes: Sequence[Outcome]) -> None:
        """Store outcomes that the cloud shall hear of.

        Raises:
            OutboxError: They are not stored.
        """
        report = QueuedReport(report_id=report_id, outcomes=tuple(outcomes))
        self._outbox.put(report_id, kind=Kind.REPORT, payload=report, content=report.content)
        self._wake.set()

    def wake(self) -> None:
        """Try again now instead of after the pause; for who has just reached the cloud."""
        self._hurry.set()
        self._wake.set()

    def collect(self, request_id: str, *, keep: bool = False) -> Answer | None:
        """Return the restored answer of a queued request, and forget it unless told to keep it; None while there is none.

        Raises:
            InputError: No such request waits or waited here, it was given up, or it was collected already.
            OutboxError: The outbox cannot be read.
        """
        started = time.monotonic()
        collected = self._outbox.collect(request_id)
        if collected is None:
            match self._outbox.state(request_id):
                case State.READY | State.LEASED | State.DONE:
                    return None
                case State.DEAD:
                    raise InputError("this request was given up; look at `edge-agent status`")
                case None:
                    raise InputError("no request of this id waits here; ask it again")
        try:
            late = collected.answer.open(LateAnswer.from_sealed)
            vault = (
                collected.vault.open(Vault.from_sealed) if collected.vault is not None else Vault()
            )
        except (SealBrokenError, VaultError) as error:
            raise OutboxError("the stored answer is damaged; ask the request again") from error
        restored = restore(late.text, vault)
        vault.wipe()
        if not keep:
            self._outbox.forget(request_id)
        latency_ms = {
            "outbox": collected.waited_s * 1000,
            "cloud": late.cloud_ms,
            "restore": (time.monotonic() - started) * 1000,
        }
        return Answer(
            request_id=request_id,
            text=restored.text,
            route=Route.CLOUD,
            reason="the better answer of a queued request",
            confidence=None,
            model=late.fingerprint,
            usage=late.usage,
            latency_ms={**latency_ms, "total": latency_ms["outbox"] + latency_ms["restore"]},
            sent_bytes=late.sent_bytes,
            num_replaced=late.num_replaced,
            num_unknown_surrogates=restored.num_unknown,
        )

    def forget(self, request_id: str) -> bool:
        """Delete a queued request or its late answer for good; False when there is none."""
        return self._outbox.forget(request_id)

    def counts(self) -> OutboxCounts:
        """Count what waits, is done, and was given up."""
        return self._outbox.counts()

    def deliver(self, *, timeout_s: float) -> int:
        """Deliver now, in this thread; return how many items still wait when done or out of time."""
        ends_at = time.monotonic() + timeout_s
        num_failures = 0
        while self._cloud is not None and time.monotonic() < ends_at:
            step = self._step(deadline_s=ends_at - time.monotonic())
            if step is _Step.DELIVERED:
                num_failures = 0
                continue
            waiting = self.counts().waiting
            if not waiting or self._closed.is_set():
                return waiting
            num_failures += 1
            pause_s = min(self._pause_s(num_failures), 5.0, max(0.0, ends_at - time.monotonic()))
            self._closed.wait(max(pause_s, 0.01))
        return self.counts().waiting

    # --- the delivering thread

    def _deliver_forever(self) -> None:
        num_failures = 0
        while not self._closed.is_set():
            self._wake.clear()
            self._hurry.clear()
            if self._closed.is_set():
                return
            try:
                step = self._step(deadline_s=self._settings.attempt_deadline_s)
            except OutboxError as error:  # a full disk, say, may pass
                logger.warning("the outbox cannot be delivered: %s", error)
                step = _Step.UNREACHABLE
            except (
                Exception
            ):  # outermost loop: the thread must outlive a bug, and the log must show it
                logger.exception("the delivery failed; report it")
                step = _Step.UNREACHABLE
            if step is _Step.DELIVERED:
                num_failures = 0
            elif step is _Step.UNREACHABLE:
                num_failures += 1
                self._hurry.wait(self._pause_s(num_failures))
            else:
                num_failures = 0
                self._wake.wait(self._next_look_s())

    def _next_look_s(self) -> float:
        """How long to sleep: short while something waits for its pause or for another process."""
        waiting = self._outbox.counts().waiting
        return self._settings.first_pause_s if waiting else self._settings.idle_pause_s

    def _pause_s(self, num_failures: int) -> float:
        """Full jitter below a doubling bound, but never less than what the cloud asked for."""
        bound_s = min(
            self._settings.max_pause_s,
            self._settings.first_pause_s * 2.0 ** min(num_failures - 1, 30),
        )
        asked_s, self._retry_after_s = self._retry_after_s, 0.0
        return max(self._jitter() * bound_s, min(asked_s, self._settings.max_pause_s))

    def _step(self, *, deadline_s: float) -> _Step:
        """Deliver one item."""
        with self._step_lock:
            if self._closed.is_set():
                return _Step.EMPTY
            if not self._lock.is_locked:
                try:
                    self._lock.acquire(blocking=False)
                except Timeout:
                    return _Step.ELSEWHERE
                self._outbox.release_leases()  # whoever held one is dead, or it would hold the lock
            self._outbox.expire()
            for kind in Kind:
                leased = self._outbox.lease(kind)
                if leased is not None:
                    return self._send(leased, min(deadline_s, self._settings.attempt_deadline_s))
            return _Step.EMPTY

    def _send(self, leased: Leased, deadline_s: float) -> _Step:
        """Send one item, and settle it by what comes back."""
        # Here, not above: this loads gRPC.
        from protos.errors import (
            InProgressError,
            InvalidRequestError,
            NotFoundError,
            PermissionDeniedError,
            PreconditionError,
            QuotaExceededError,
            RequestCancelledError,
            UnauthenticatedError,
            UnavailableError,
            UnsupportedError,
            WireError,
        )

        try:
            answered = self._call(leased, deadline_s)
        except (InvalidRequestError, NotFoundError, PreconditionError, UnsupportedError) as error:
            self._bury(leased, str(error))
        except (VaultError, SealBrokenError) as error:
            self._bury(leased, str(error))
        except RequestCancelledError as error:
            self._outbox.fail(leased, reason=str(error), counts=False)
        except (
            UnavailableError,
            UnauthenticatedError,
            PermissionDeniedError,
            QuotaExceededError,
        ) as error:
            self._outbox.fail(leased, reason=str(error), counts=False)
            self._retry_after_s = error.retry_after_s or 0.0
            logger.info("the outbox waits: %s", error)
            return _Step.UNREACHABLE
        except ConfigError as error:
            self._outbox.fail(leased, reason=str(error), counts=False)
            logger.warning("the outbox waits: %s", error)
            return _Step.UNREACHABLE
        except InProgressError as error:
            pause_s = error.retry_after_s or self._settings.first_pause_s
            self._outbox.fail(leased, reason=str(error), pause_s=pause_s, counts=False)
        except WireError as error:  # too slow, or nonsense: the item's own fault, perhaps
            if leased.attempt >= self._settings.max_attempts:
                self._bury(leased, str(error))
            else:
                pause_s = self._pause_s(leased.attempt)
                self._outbox.fail(leased, reason=str(error), pause_s=pause_s)
        else:
            if answered is not None and self._on_answer is not None:
                self._on_answer(answered)
        return _Step.DELIVERED

    def _call(self, leased: Leased, deadline_s: float) -> str | None:
        """Send one item and store the answer; return the id of the request that was answered."""
        assert self._cloud is not None
        if leased.kind is Kind.REPORT:
            report = leased.payload.open(QueuedReport.from_sealed)
            self._cloud.report(report.report_id, report.outcomes, deadline_s=min(deadline_s, 10.0))
            self._outbox.done(leased)
            return None
        request = leased.payload.open(QueuedRequest.from_sealed)
        grant = self._ask_purse(request)
        if grant.why_not:
            self._outbox.fail(leased, reason=grant.why_not, pause_s=_BUDGET_PAUSE_S, counts=False)
            return None
        started = time.monotonic()
        answer: CloudAnswer | None = None
        try:
            answer = self._cloud.generate(
                request.anonymized,
                options=request.options,
                deadline_s=deadline_s,
                cancel=self._closed,
                queued=True,
                num_attempts=1,  # the pauses between attempts are this file's
            )
        finally:
            if self._purse is not None:
                # A failed attempt is asked for again; the cloud bills a request id once.
                self._purse.settle(grant, answer.usage if answer is not None else None)
        cloud_ms = (time.monotonic() - started) * 1000
        if self._judge is not None and self._judge(request.anonymized.request_id, answer.text):
            self._outbox.done(leased)
            return None
        self._outbox.done(leased, LateAnswer.of(answer, request, cloud_ms=cloud_ms))
        return request.anonymized.request_id

    def _ask_purse(self, request: QueuedRequest) -> Grant:
        if self._purse is None:
            return Grant()
        anonymized = request.anonymized
        messages = anonymized.task.render(anonymized.messages)
        return self._purse.ask_queued(
            anonymized.request_id,
            num_bytes=sum(len(message.text.encode()) for message in messages),
            max_output_tokens=request.options.max_output_tokens,
        )

    def _bury(self, leased: Leased, reason: str) -> None:
        if self._outbox.bury(leased, reason=reason):
            logger.error("an item of the outbox was given up (%s): %s", leased.kind, reason)
