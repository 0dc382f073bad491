"""Spending on the cloud within a daily budget: paced over the day, and stopped hard at its end.

Pacing puts a price on budget (a dual variable): a request is sent when what the cloud is expected to add exceeds the price
of what it costs. The price rises while spending is ahead of the forecast and falls while it is behind.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Self

from partition.errors import CalibrationError

DAY_S, HOUR_S = 86400.0, 3600.0
_STEP = 0.02  # of the price, a request
_FORECAST_WEIGHT = 0.3  # of yesterday in the hourly forecast
_COST_WEIGHT = 0.05  # of the latest request in the mean cost


class GivesWay(enum.StrEnum):
    """What happens to an unsure request when the budget does not allow to send it. The operator's choice."""

    REFUSE = "refuse"
    QUEUE = "queue"  # local answer now, flagged; sent when there is budget again
    FLAG = "flag"  # local answer, flagged as below certified confidence; never sent


class Spending(enum.StrEnum):
    """May this be sent?"""

    SEND = "send"
    PACED = "paced"  # worth less than the budget it would take from later requests
    EXHAUSTED = "exhausted"  # the day's budget is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """How much, and what gives way.

    Raises:
        CalibrationError: An amount or ratio is out of range.
    """

    daily_micro_usd: int
    audit_ratio: float = 0.1  # reserved for audits, before anything else
    gives_way: GivesWay = GivesWay.QUEUE

    def __post_init__(self) -> None:
        if self.daily_micro_usd < 0 or not 0.0 <= self.audit_ratio < 1.0:
            raise CalibrationError("a daily budget must not be negative, its audit part below 1")

    @property
    def audit_micro_usd(self) -> int:
        """Part that only audits may spend."""
        return int(self.daily_micro_usd * self.audit_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """What was spent today, the price, and the forecast. Immutable; times are UTC seconds since 1970."""

    day: int = 0  # days since 1970
    spent_micro_usd: int = 0  # today, requests
    audits_micro_usd: int = 0  # today, audits
    price: float = 0.0  # expected gain that one mean cost must bring
    mean_cost_micro_usd: float = 0.0
    forecast: tuple[float, ...] = ()  # requests in each hour of a day; empty on the first day
    today: tuple[int, ...] = (0,) * 24

    def at(self, now_s: float) -> Self:
        """The state at a later time: on a new day nothing is spent, and yesterday enters the forecast."""
        day = int(now_s // DAY_S)
        if day <= self.day:
            return self  # the same day, or a clock that was set back: nothing is given twice
        if self.day == 0:
            return replace(self, day=day)
        forecast = tuple(float(count) for count in self.today)
        if self.forecast:
            forecast = tuple(
                old + _FORECAST_WEIGHT * (new - old)
                for old, new in zip(self.forecast, forecast, strict=True)
            )
        return replace(
            self, day=day, spent_micro_usd=0, audits_micro_usd=0, forecast=forecast, today=(0,) * 24
        )

    def requests_left(self, now_s: float) -> float:
        """Requests still expected today, at least 1: by the forecast, else at today's pace."""
        second = now_s % DAY_S
        hour, into_hour = int(second // HOUR_S), (second % HOUR_S) / HOUR_S
        if self.forecast:
            left = self.forecast[hour] * (1.0 - into_hour) + sum(self.forecast[hour + 1 :])
        else:
            left = sum(self.today) * (DAY_S - second) / max(second, HOUR_S)
        return max(left, 1.0)


def ask(
    policy: BudgetPolicy, state: BudgetState, *, now_s: float, gain: float, cost_micro_usd: int
) -> tuple[Spending, BudgetState]:
    """Decide on one unsure request, and account for it if it is sent.

    Args:
        policy: The operator's.
        state: Before.
        now_s: UTC seconds since 1970.
        gain: P(cloud right) - P(edge right), in [-1, 1].
        cost_micro_usd: What it is expected to cost.

    Returns:
        The verdict, and the state after it. ``EXHAUSTED`` is certain: the requests of one day never cost more than the
        budget by these costs.
    """
    state = state.at(now_s)
    hour = int(now_s % DAY_S // HOUR_S)
    today = tuple(count + (index == hour) for index, count in enumerate(state.today))
    mean_cost = state.mean_cost_micro_usd or float(cost_micro_usd)
    mean_cost += _COST_WEIGHT * (cost_micro_usd - mean_cost)
    relative_cost = cost_micro_usd / mean_cost if mean_cost > 0 else 0.0
    reserved = max(policy.audit_micro_usd, state.audits_micro_usd)
    left = policy.daily_micro_usd - reserved - state.spent_micro_usd
    if cost_micro_usd > left:
        verdict = Spending.EXHAUSTED
    elif gain <= state.price * relative_cost:
        verdict = Spending.PACED
    else:
        verdict = Spending.SEND
    sent = verdict is Spending.SEND
    allowed = left / (state.requests_left(now_s) * mean_cost) if mean_cost > 0 else 1.0
    price = max(0.0, state.price + _STEP * (relative_cost * sent - allowed))
    return verdict, replace(
        state,
        today=today,
        mean_cost_micro_usd=mean_cost,
        price=min(price, 1.0),  # no gain is above 1
        spent_micro_usd=state.spent_micro_usd + cost_micro_usd * sent,
    )


def ask_for_audit(
    policy: BudgetPolicy, state: BudgetState, *, now_s: float, cost_micro_usd: int
) -> tuple[Spending, BudgetState]:
    """Decide on one audit, from the part reserved for audits, then from what the day has left."""
    state = state.at(now_s)
    spent = state.spent_micro_usd + state.audits_micro_usd
    if spent + cost_micro_usd > policy.daily_micro_usd:
        return Spending.EXHAUSTED, state
    return Spending.SEND, replace(state, audits_micro_usd=state.audits_micro_usd + cost_micro_usd)


def corrected(state: BudgetState, *, now_s: float, micro_usd: int, is_audit: bool) -> BudgetState:
    """The state after something sent today turned out to cost so much more, or less if negative."""
    state = state.at(now_s)
    if is_audit:
        return replace(state, audits_micro_usd=max(0, state.audits_micro_usd + micro_usd))
    return replace(state, spent_micro_usd=max(0, state.spent_micro_usd + micro_usd))
