"""Calls are ended at their deadlines, many by one timer, and each is told why."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest

from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Call, Ending
from cloud_service.rpc.deadlines import REPLY_MARGIN_S, TICK_S, Deadlines
from protos.errors import DeadlineExceededError, PermissionDeniedError


@dataclass
class Context:
    """As much of gRPC's as a deadline needs."""

    remaining_s: float | None

    def time_remaining(self) -> float | None:
        return self.remaining_s


def begin(deadlines: Deadlines, call: Call, lasts_s: float) -> asyncio.Task[Any]:
    async def answer(call: Call) -> str:
        await asyncio.sleep(lasts_s)
        return "answered"

    async def run() -> Any:
        call.task = asyncio.current_task()
        return await deadlines.guard(call, answer)

    return asyncio.create_task(run())


def a_call(remaining_s: float | None) -> Call:
    context: Any = Context(remaining_s)
    return Call(service="s", method="m", context=context, request=None)


async def test_late_ones_are_ended_a_moment_before_and_the_others_answered() -> None:
    deadlines = Deadlines(Metrics())
    started_s = time.monotonic()
    late = [begin(deadlines, a_call(0.15 + at * 1e-4), 30.0) for at in range(20)]
    soon = [begin(deadlines, a_call(30.0 + at * 1e-4), 0.01) for at in range(20)]
    errors = await asyncio.gather(*late, return_exceptions=True)
    took_s = time.monotonic() - started_s
    assert all(isinstance(error, DeadlineExceededError) for error in errors)
    assert took_s >= 0.15 - REPLY_MARGIN_S
    assert await asyncio.gather(*soon) == ["answered"] * 20
    assert not deadlines._ticks  # nothing is left of them, timers neither


async def test_a_call_without_time_is_not_begun_and_one_without_deadline_gets_one() -> None:
    metrics = Metrics()
    deadlines = Deadlines(metrics)
    with pytest.raises(DeadlineExceededError):
        await begin(deadlines, a_call(REPLY_MARGIN_S), 0.0)
    call = a_call(None)
    assert await begin(deadlines, call, 0.0) == "answered"
    assert 8.0 < call.remaining_s <= 10.0
    assert metrics.registry.get_sample_value("tandem_rpc_no_deadline_total") == 1


async def test_who_is_put_out_hears_why_and_who_hangs_up_is_cancelled() -> None:
    deadlines = Deadlines(Metrics())
    revoked, gone, both = (a_call(30.0) for _ in range(3))
    tasks = [begin(deadlines, call, 30.0) for call in (revoked, gone, both)]
    await asyncio.sleep(TICK_S)
    revoked.end(Ending.REVOKED)
    revoked.end(Ending.LATE)  # the first reason holds
    tasks[1].cancel()
    tasks[2].cancel()
    both.end(Ending.LATE)  # in the same moment
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(errors[0], PermissionDeniedError)
    assert isinstance(errors[1], asyncio.CancelledError)
    assert isinstance(errors[2], asyncio.CancelledError)
    assert not deadlines._ticks
