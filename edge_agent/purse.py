"""What the cloud may cost: asks the day's budget before a request leaves, and enters what was billed afterwards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.config import BudgetConfig
from edge_agent.flow import Usage
from partition.errors import OversightError
from partition.oversight.budget import GivesWay, Spending
from partition.oversight.spending_book import SpendingBook

logger = logging.getLogger(__name__)

MICRO = 1_000_000
_BYTES_PER_TOKEN = (
    3.0  # of UTF-8; English has 4 to 5, Chinese about 3: rather too dear than too cheap
)
_REASONS = {
    Spending.PACED: "the day's budget is kept for requests that gain more",
    Spending.EXHAUSTED: "the day's budget is spent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The budget's word on one request."""

    why_not: str = ""  # a sentence; empty: it may be sent
    cost_micro_usd: int = 0  # entered as spent, until :meth:`Purse.settle`
    is_audit: bool = False


class Purse:
    """The budget of one device. Thread-safe."""

    def __init__(
        self,
        book: SpendingBook,
        prices: BudgetConfig,
        *,
        is_audit: Callable[[str], bool],
    ) -> None:
        """Put it together.

        Args:
            book: What was spent.
            prices: Of the cloud, and how often it is right.
            is_audit: Whether a request id waits only to audit its local answer.
        """
        self._book = book
        self._prices = prices
        self._is_audit = is_audit

    @property
    def gives_way(self) -> GivesWay:
        """What happens to a request that may not be sent."""
        return self._book.policy.gives_way

    def ask(
        self,
        *,
        num_bytes: int,
        max_output_tokens: int,
        probability: float | None = None,
    ) -> Grant:
        """Ask to send one request.

        Args:
            num_bytes: Of its prompt, in UTF-8.
            max_output_tokens: Of its answer.
            probability: That the local answer is right; None: there is none.
        """
        gain = self._prices.cloud_accuracy - (probability or 0.0)
        return self._asked(num_bytes, max_output_tokens, gain=gain)

    def ask_queued(self, request_id: str, *, num_bytes: int, max_output_tokens: int) -> Grant:
        """Ask to send what waits in the outbox: an audit, or a request that somebody waits for already."""
        try:
            is_audit = self._is_audit(request_id)
        except OversightError as error:
            return Grant(why_not=str(error))
        return self._asked(num_bytes, max_output_tokens, gain=1.0, is_audit=is_audit)

    def settle(self, grant: Grant, usage: Usage | None) -> None:
        """Enter what it really cost; ``usage`` None: it never left."""
        if grant.why_not or not grant.cost_micro_usd:
            return
        billed = 0
        if usage is not None:
            billed = usage.cost_micro_usd or self._cost(usage.input_tokens, usage.output_tokens)
        try:
            self._book.correct(
                expected_micro_usd=grant.cost_micro_usd,
                billed_micro_usd=billed,
                is_audit=grant.is_audit,
            )
        except OversightError as error:  # what was expected stays entered
            logger.warning("what a request cost cannot be entered: %s", error)

    def _asked(
        self,
        num_bytes: int,
        max_output_tokens: int,
        *,
        gain: float,
        is_audit: bool = False,
    ) -> Grant:
        cost = self._cost(math.ceil(num_bytes / _BYTES_PER_TOKEN), max_output_tokens)
        try:
            if is_audit:
                verdict = self._book.may_spend_on_audit(cost_micro_usd=cost)
            else:
                verdict = self._book.may_spend(gain=gain, cost_micro_usd=cost)
        except OversightError as error:  # a hard stop that nobody can check is none
            return Grant(why_not=f"what today has cost is not known: {error}")
        if verdict is Spending.SEND:
            return Grant(cost_micro_usd=cost, is_audit=is_audit)
        return Grant(why_not=_REASONS[verdict], is_audit=is_audit)

    def _cost(self, input_tokens: int, output_tokens: int) -> int:
        prices = self._prices
        return math.ceil(
            input_tokens * prices.usd_per_million_input_tokens
            + output_tokens * prices.usd_per_million_output_tokens
        )  # dollars a million tokens are micro-dollars a token
