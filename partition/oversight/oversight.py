"""What is known about certificates in operation, and survives a restart: audits, alarms, score drift, spending.

One SQLite file, any number of threads and processes: each change is one transaction that reads a state, applies a pure
function and writes the result. No text and no caller's id is stored.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from partition.calibration.certificate import Certificate
from partition.calibration.drift import ScoreDrift
from partition.errors import OversightError
from partition.oversight import budget
from partition.oversight.alarm import ErrorAlarm
from partition.oversight.audit import AuditPlan, OnAlarm
from partition.oversight.budget import BudgetPolicy, BudgetState, Spending
from partition.oversight.oversight_rows import (
    Watch,
    create_tables,
    num_pending,
    read_spending,
    read_watch,
    write_spending,
    write_watch,
)

logger = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 5.0


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
    """Owner of the file. Thread-safe; closing it is closing nothing, each call opens its own connection."""

    def __init__(
        self,
        path: Path,
        *,
        plan: AuditPlan,
        clock: Callable[[], float],
        on_alarm: OnAlarm = OnAlarm.CLOUD,
        budget_policy: BudgetPolicy | None = None,
    ) -> None:
        """Open or create the file.

        Args:
            path: Of the SQLite file.
            plan: Which answers are audited.
            clock: UTC seconds since 1970.
            on_alarm: What an alarm does.
            budget_policy: None: spending has no limit.

        Raises:
            OversightError: The file cannot be opened, or is none of ours.
        """
        self._path = path
        self._plan = plan
        self._clock = clock
        self._on_alarm = on_alarm
        self._budget_policy = budget_policy
        with self._transaction() as connection:
            create_tables(connection)

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
        with self._transaction(writes=False) as connection:
            rows = connection.execute("select task from watch order by task").fetchall()
        return tuple(row[0] for row in rows)

    def standing(self, task: str) -> Standing | None:
        """How the task's certificate stands; None: it is not watched."""
        with self._transaction(writes=False) as connection:
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

    # --- requests

    def saw_score(self, task: str, score: float) -> None:
        """Count the score of any request of a watched task, wherever it was answered then."""
        with self._transaction(durable=False) as connection:
            found = read_watch(connection, task)
            if found is not None:
                write_watch(connection, task, replace(found, drift=found.drift.after(score)))

    def draws_audit(self, request_id: str) -> bool:
        """Whether this request is audited if its answer stays local; the same before and after the answer."""
        return self._plan.draws(request_id)

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
        with self._transaction() as connection:
            found = read_watch(connection, task)
            if found is None:
                return False
            connection.execute(
                "insert or ignore into audit values (?, ?, ?, ?, ?)",
                (
                    self._plan.name_of(request_id),
                    task,
                    found.fingerprint,
                    self._plan.digest_of(request_id, answer),
                    self._clock() + self._plan.deadline_s,
                ),
            )
        return True

    def settle_audit(self, request_id: str, loss: float) -> Standing | None:
        """Take the judgement of one audited answer; a second one for the same answer changes nothing.

        Args:
            request_id: As given to :meth:`begin_audit`.
            loss: In [0, 1]; 1 is wrong.

        Returns:
            How the certificate stands now; None: that answer waits for no judgement.
        """
        with self._transaction() as connection:
            return self._settle(connection, self._plan.name_of(request_id), loss)

    def compare_audit(self, request_id: str, judgement: str) -> Standing | None:
        """Settle an audit by another answer to the same request, the cloud's say: another text is an error.

        For tasks whose answer is one of a few labels; the certificate's loss is then ``disagreement``.
        """
        name = self._plan.name_of(request_id)
        with self._transaction() as connection:
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
        with self._transaction() as connection:
            due = connection.execute(
                "select name from audit where due_s <= ? order by due_s, name", (self._clock(),)
            ).fetchall()
            for (name,) in due:
                self._settle(connection, name, 1.0)
        if due:
            logger.warning("%d audits got no label in time and count as errors", len(due))
        return len(due)

    # --- spending

    def may_spend(self, *, gain: float, cost_micro_usd: int) -> Spending:
        """Ask to send one unsure request; counted as spent if the answer is SEND."""
        policy = self._budget_policy
        if policy is None:
            return Spending.SEND
        return self._spend(
            lambda state: budget.ask(
                policy, state, now_s=self._clock(), gain=gain, cost_micro_usd=cost_micro_usd
            )
        )

    def may_spend_on_audit(self, *, cost_micro_usd: int) -> Spending:
        """Ask to send one audit."""
        policy = self._budget_policy
        if policy is None:
            return Spending.SEND
        return self._spend(
            lambda state: budget.ask_for_audit(
                policy, state, now_s=self._clock(), cost_micro_usd=cost_micro_usd
            )
        )

    def check_integrity(self) -> None:
        """Verify that every state can be read.

        Raises:
            OversightError: One cannot.
        """
        with self._transaction() as connection:
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
        found = read_watch(connection, task)
        if found is None:
            return None
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
        with self._transaction() as connection:
            changed = change(read_watch(connection, task))
            write_watch(connection, task, changed)
            return _standing(changed, num_pending(connection, task))

    def _spend(self, decide: Callable[[BudgetState], tuple[Spending, BudgetState]]) -> Spending:
        with self._transaction() as connection:
            verdict, state = decide(read_spending(connection))
            write_spending(connection, state)
            return verdict

    @contextlib.contextmanager
    def _transaction(
        self, *, writes: bool = True, durable: bool = True
    ) -> Iterator[sqlite3.Connection]:
        """One transaction: whole or not at all, and nobody else's writes between its reads and its own.

        A power failure may undo one that is not durable, and nothing else.
        """
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                connection.execute("pragma journal_mode = wal")
                connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
                connection.execute("begin immediate" if writes else "begin")
                yield connection
                connection.execute("commit")
            finally:
                connection.close()  # rolls back what was not committed
        except sqlite3.Error as error:
            raise OversightError(
                f"{self._path}: cannot be used ({type(error).__name__}); check its permissions and the free space, or move it away to start anew"
            ) from error


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
