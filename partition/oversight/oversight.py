"""What is known about certificates in operation, and survives a restart: audits, alarms, score drift, adaptive thresholds.

Each change is one transaction that reads a state, applies a pure function and writes the result. No text and no caller's id is
stored.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

from partition.calibration.certificate import Certificate
from partition.calibration.drift import ScoreDrift
from partition.errors import OversightError
from partition.oversight.adaptive import AdaptiveThreshold
from partition.oversight.alarm import ErrorAlarm
from partition.oversight.audit import AuditPlan, OnAlarm
from partition.oversight.oversight_file import OversightFile
from partition.oversight.oversight_rows import (
    Watch,
    num_pending,
    read_adaptive,
    read_spending,
    read_watch,
    write_adaptive,
    write_watch,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the router needs to know, and the operator wants to."""

    threshold: float | None
    why_suspended: str = ""  # a sentence
    num_audits: int = 0
    num_errors: float = 0.0
    e_value: float = 1.0
    psi: float | None = None
    drift_warning: str = ""  # a sentence
    num_pending: int = 0  # audits that wait for their label


class Oversight:
    """Certificates and adaptive thresholds under watch. Thread-safe."""

    def __init__(
        self,
        file: OversightFile,
        *,
        plan: AuditPlan,
        clock: Callable[[], float],
        on_alarm: OnAlarm = OnAlarm.CLOUD,
    ) -> None:
        """Watch nothing yet.

        Args:
            file: Where everything is kept.
            plan: Which answers are audited.
            clock: UTC seconds since 1970.
            on_alarm: What an alarm does.
        """
        self._file = file
        self._plan = plan
        self._clock = clock
        self._on_alarm = on_alarm

    # --- certificates

    def watch(self, task: str, certificate: Certificate) -> Standing:
        """Begin to watch a certificate, or go on after a restart; a new certificate begins anew.

        Raises:
            OversightError: The certificate certifies nothing, or the file cannot be used.
        """
        if certificate.threshold is None:
            raise OversightError("there is nothing to watch: the certificate certifies nothing")
        fresh = Watch(
            fingerprint=certificate.fingerprint,
            thresholds=(certificate.threshold, *certificate.stricter_thresholds),
            alarm=ErrorAlarm(
                max_error=certificate.max_error, delta=round(1.0 - certificate.confidence, 12)
            ),
            drift=ScoreDrift(
                edges=certificate.score_edges, shares=certificate.score_shares or (1.0,)
            ),
        )

        def begin(known: Watch | None) -> Watch:
            is_same = (
                known is not None
                and known.fingerprint == fresh.fingerprint
                and known.thresholds == fresh.thresholds
            )
            return known if is_same and known is not None else fresh

        return self._change(task, begin)

    def tasks(self) -> tuple[str, ...]:
        """Names of the watched tasks."""
        with self._file.transaction(writes=False) as connection:
            rows = connection.execute("select task from watch order by task").fetchall()
        return tuple(row[0] for row in rows)

    def standing(self, task: str) -> Standing | None:
        """How the task's certificate stands; None: it is not watched."""
        with self._file.transaction(writes=False) as connection:
            found = read_watch(connection, task)
            return None if found is None else _standing(found, num_pending(connection, task))

    def resume(self, task: str) -> Standing:
        """Take up a suspended certificate again, because the operator found and removed the cause.

        Each restart needs more evidence than the one before to raise the alarm.

        Raises:
            OversightError: The task is not watched.
        """

        def again(known: Watch | None) -> Watch:
            found = _known(known, task)
            return replace(found, alarm=found.alarm.restarted(), step=0)

        return self._change(task, again)

    # --- adaptive thresholds

    def follow(self, task: str, fingerprint: str, fresh: AdaptiveThreshold) -> AdaptiveThreshold:
        """Begin to adapt a threshold, or go on after a restart; another limit, rate or fingerprint begins anew."""
        with self._file.transaction() as connection:
            known = read_adaptive(connection, task)
            if known is not None and known[0] == fingerprint and _same_rule(known[1], fresh):
                return known[1]
            write_adaptive(connection, task, fingerprint, fresh)
            return fresh

    def adaptive(self, task: str) -> AdaptiveThreshold | None:
        """The task's adaptive threshold; None: it has none."""
        with self._file.transaction(writes=False) as connection:
            known = read_adaptive(connection, task)
            return None if known is None else known[1]

    def adaptive_tasks(self) -> dict[str, AdaptiveThreshold]:
        """Every task with an adaptive threshold, and how it stands."""
        with self._file.transaction(writes=False) as connection:
            rows = connection.execute("select task from adaptive order by task").fetchall()
            found = {task: read_adaptive(connection, task) for (task,) in rows}
        return {task: known[1] for task, known in found.items() if known is not None}

    def unfollow(self, task: str) -> None:
        """Forget the task's adaptive threshold, if it has one: its audits are about its certificate again."""
        with self._file.transaction() as connection:
            connection.execute("delete from adaptive where task = ?", (task,))

    def adapt(self, task: str, *, stood: bool, is_audited: bool = False) -> None:
        """Count one request of a task with an adaptive threshold.

        Args:
            task: Of the request.
            stood: The local answer stood by itself.
            is_audited: And :meth:`begin_audit` drew it.
        """
        with self._file.transaction(durable=False) as connection:
            known = read_adaptive(connection, task)
            if known is None:
                return
            fingerprint, state = known
            if not stood:
                state = state.after_sent()
            elif is_audited:
                state = state.after_audit_begun()
            else:
                state = state.after_local(None)
            if state != known[1]:
                write_adaptive(connection, task, fingerprint, state)

    # --- requests

    def saw_score(self, task: str, score: float) -> None:
        """Count the score of any request of a watched task, wherever it was answered then."""
        with self._file.transaction(durable=False) as connection:
            found = read_watch(connection, task)
            if found is not None:
                write_watch(connection, task, replace(found, drift=found.drift.after(score)))

    def begin_audit(self, task: str, request_id: str, answer: str = "") -> bool:
        """Note that a local answer waits for its label, if it was drawn.

        Args:
            task: Of the request.
            request_id: Its own.
            answer: The local answer, if :meth:`compare_audit` will judge it; only a keyed digest is kept.

        Returns:
            Whether it is audited: send it to whoever judges it, then call :meth:`settle_audit`.
        """
        if not self._plan.draws(request_id):
            return False
        with self._file.transaction() as connection:
            fingerprint = _fingerprint_of(connection, task)
            if fingerprint is None:
                return False
            connection.execute(
                "insert or ignore into audit values (?, ?, ?, ?, ?)",
                (
                    self._plan.name_of(request_id),
                    task,
                    fingerprint,
                    self._plan.digest_of(request_id, answer),
                    self._clock() + self._plan.deadline_s,
                ),
            )
        return True

    def waits_for(self, request_id: str) -> bool:
        """Whether this request's local answer is an audit that waits for its label."""
        with self._file.transaction(writes=False) as connection:
            name = self._plan.name_of(request_id)
            row = connection.execute("select 1 from audit where name = ?", (name,)).fetchone()
            return row is not None

    def name_of(self, request_id: str) -> str:
        """What stands for a request here; see :meth:`settle_named`."""
        return self._plan.name_of(request_id)

    def waiting_names(self) -> frozenset[str]:
        """What stands for the requests whose audits wait for their label."""
        with self._file.transaction(writes=False) as connection:
            return frozenset(row[0] for row in connection.execute("select name from audit"))

    def settle_named(self, name: str, loss: float) -> bool:
        """Settle an audit by the name that stands for its request; False: no such audit waits."""
        with self._file.transaction() as connection:
            return self._settle(connection, name, loss) is not None

    def settle_audit(self, request_id: str, loss: float) -> Standing | None:
        """Take the judgement of one audited answer; a second one for the same answer changes nothing.

        Args:
            request_id: As given to :meth:`begin_audit`.
            loss: In [0, 1]; 1 is wrong.

        Returns:
            How the certificate stands now; None: that answer waits for no judgement.
        """
        with self._file.transaction() as connection:
            return self._settle(connection, self._plan.name_of(request_id), loss)

    def compare_audit(self, request_id: str, judgement: str) -> Standing | None:
        """Settle an audit by another answer to the same request, the cloud's say: another text is an error.

        For tasks whose answer is one of a few labels; the certificate's loss is then ``disagreement``.
        """
        name = self._plan.name_of(request_id)
        with self._file.transaction() as connection:
            row = connection.execute("select answer from audit where name = ?", (name,)).fetchone()
            if row is None:
                return None
            is_same = row[0] == self._plan.digest_of(request_id, judgement)
            return self._settle(connection, name, 0.0 if is_same else 1.0)

    def judged_by_text(self, request_id: str, judgement: str) -> bool:
        """As :meth:`compare_audit`, and tell whether that request was an audit that waited.

        A file that cannot be used is logged: the audit then stays, and counts as an error when its time is up.
        """
        try:
            return self.compare_audit(request_id, judgement) is not None
        except OversightError as error:
            logger.warning("request %s: its audit cannot be settled: %s", request_id, error)
            return False

    def expire_audits(self) -> int:
        """Count every audit that got no label by its deadline as an error, lest silence look like success.

        Returns:
            How many there were.
        """
        with self._file.transaction() as connection:
            due = connection.execute(
                "select name from audit where due_s <= ? order by due_s, name", (self._clock(),)
            ).fetchall()
            for (name,) in due:
                self._settle(connection, name, 1.0)
        if due:
            logger.warning("%d audits got no label in time and count as errors", len(due))
        return len(due)

    def check_integrity(self) -> None:
        """Verify that every state can be read.

        Raises:
            OversightError: One cannot.
        """
        with self._file.transaction() as connection:
            for (task,) in connection.execute("select task from watch").fetchall():
                read_watch(connection, task)
            read_spending(connection)

    # --- private

    def _settle(self, connection: sqlite3.Connection, name: str, loss: float) -> Standing | None:
        row = connection.execute(
            "delete from audit where name = ? returning task, fingerprint", (name,)
        ).fetchone()
        if row is None:
            return None
        task, fingerprint = row
        known = read_adaptive(connection, task)
        if known is not None and known[0] == fingerprint:
            write_adaptive(connection, task, fingerprint, known[1].after_audit(loss))
        found = read_watch(connection, task)
        if found is None:
            return Standing(threshold=None, num_pending=num_pending(connection, task))
        if found.fingerprint == fingerprint and found.threshold is not None:
            alarm = found.alarm.after(loss)
            if alarm.is_raised:
                found = self._alarmed(task, replace(found, alarm=alarm))
            else:
                found = replace(found, alarm=alarm)
            write_watch(connection, task, found)
        return _standing(found, num_pending(connection, task))

    def _alarmed(self, task: str, watch: Watch) -> Watch:
        logger.warning(
            "task %s: %g of %d audited local answers were wrong, too many for the certificate",
            task,
            watch.alarm.num_errors,
            watch.alarm.num_audits,
        )
        if self._on_alarm is OnAlarm.CLOUD or watch.step + 1 >= len(watch.thresholds):
            return replace(watch, step=len(watch.thresholds))
        return replace(watch, step=watch.step + 1, alarm=watch.alarm.restarted())

    def _change(self, task: str, change: Callable[[Watch | None], Watch]) -> Standing:
        with self._file.transaction() as connection:
            changed = change(read_watch(connection, task))
            write_watch(connection, task, changed)
            return _standing(changed, num_pending(connection, task))


def _fingerprint_of(connection: sqlite3.Connection, task: str) -> str | None:
    """What an audit of the task is about: its adaptive threshold, else its certificate; None: neither is watched."""
    adaptive = read_adaptive(connection, task)
    if adaptive is not None:
        return adaptive[0]
    watch = read_watch(connection, task)
    return None if watch is None else watch.fingerprint


def _same_rule(known: AdaptiveThreshold, fresh: AdaptiveThreshold) -> bool:
    return (known.max_error, known.audit_rate, known.eta, known.decay, known.start) == (
        fresh.max_error,
        fresh.audit_rate,
        fresh.eta,
        fresh.decay,
        fresh.start,
    )


def _known(watch: Watch | None, task: str) -> Watch:
    if watch is None:
        raise OversightError(f"task {task!r} is not watched; install a certificate first")
    return watch


def _standing(watch: Watch, pending: int) -> Standing:
    why = ""
    if watch.threshold is None:
        why = (
            f"the audit alarm suspended the certificate: {watch.alarm.num_errors:g} of "
            f"{watch.alarm.num_audits} audited answers were wrong"
        )
    warning = ""
    if watch.drift.warns:
        warning = (
            f"scores are spread differently than at calibration (PSI {watch.drift.psi:.2f}); watch the audits, and "
            "calibrate again if requests have changed"
        )
    return Standing(
        threshold=watch.threshold,
        why_suspended=why,
        num_audits=watch.alarm.num_audits,
        num_errors=watch.alarm.num_errors,
        e_value=watch.alarm.e_value,
        psi=watch.drift.psi,
        drift_warning=warning,
        num_pending=pending,
    )
