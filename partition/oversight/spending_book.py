"""What was spent on the cloud today, by all threads and processes of a device; it survives a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from partition.oversight import budget
from partition.oversight.budget import BudgetPolicy, BudgetState, Spending
from partition.oversight.oversight_file import OversightFile
from partition.oversight.oversight_rows import read_spending, write_spending

_Verdict = TypeVar("_Verdict")


class SpendingBook:
    """Asks the budget, and writes down what was allowed. Thread-safe."""

    def __init__(
        self, file: OversightFile, *, policy: BudgetPolicy, clock: Callable[[], float]
    ) -> None:
        """Open the book.

        Args:
            file: Where it is kept.
            policy: The operator's.
            clock: UTC seconds since 1970.
        """
        self._file = file
        self.policy = policy
        self._clock = clock

    def may_spend(self, *, gain: float, cost_micro_usd: int) -> Spending:
        """Ask to send one unsure request; counted as spent if the answer is SEND.

        Raises:
            OversightError: The file cannot be used.
        """
        return self._change(
            lambda state: budget.ask(
                self.policy,
                state,
                now_s=self._clock(),
                gain=gain,
                cost_micro_usd=cost_micro_usd,
            )
        )

    def may_spend_on_audit(self, *, cost_micro_usd: int) -> Spending:
        """Ask to send one audit; as :meth:`may_spend`."""
        return self._change(
            lambda state: budget.ask_for_audit(
                self.policy, state, now_s=self._clock(), cost_micro_usd=cost_micro_usd
            )
        )

    def correct(self, *, expected_micro_usd: int, billed_micro_usd: int, is_audit: bool) -> None:
        """Put what was billed in place of what was expected; 0 for a request that never left.

        Raises:
            OversightError: The file cannot be used.
        """
        change = billed_micro_usd - expected_micro_usd

        def corrected(state: BudgetState) -> tuple[None, BudgetState]:
            return None, budget.corrected(
                state, now_s=self._clock(), micro_usd=change, is_audit=is_audit
            )

        if change:
            self._change(corrected)

    @property
    def today(self) -> BudgetState:
        """What today has cost so far.

        Raises:
            OversightError: The file cannot be used.
        """
        with self._file.transaction(writes=False) as connection:
            return read_spending(connection).at(self._clock())

    def _change(self, decide: Callable[[BudgetState], tuple[_Verdict, BudgetState]]) -> _Verdict:
        with self._file.transaction() as connection:
            verdict, state = decide(read_spending(connection))
            write_spending(connection, state)
            return verdict
