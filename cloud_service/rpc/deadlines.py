"""Gives each call a deadline, and ends it a moment before, so that the refusal still arrives; or when its caller is put out.

Calls whose deadlines fall into the same hundredth of a second share a timer: one for each call would cost a small one more than
what it asks for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Answer, Call, Ending
from protos.errors import DeadlineExceededError, PermissionDeniedError

REPLY_MARGIN_S: Final = 0.05  # what is left of a deadline for the way back
DEFAULT_DEADLINE_S: Final = 10.0
DEADLINES_S: Final[Mapping[str, float]] = {"Generate": 120.0, "Extend": 600.0, "GetBlob": 600.0}
TICK_S: Final = 0.01  # by so much a call may be ended later; well below the margin


@dataclass(slots=True)
class _Tick:
    timer: asyncio.TimerHandle
    calls: set[Call] = field(default_factory=set)


class Deadlines:
    """The calls that are being answered, by when they end. Event loop only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ticks: dict[int, _Tick] = {}

    async def guard(self, call: Call, answer: Answer) -> Any:
        """See :data:`cloud_service.rpc.calls.Guard`."""
        remaining_s = call.context.time_remaining()
        if remaining_s is None:
            self._metrics.rpc_no_deadline.inc()
            remaining_s = DEADLINES_S.get(call.method, DEFAULT_DEADLINE_S)
        usable_s = remaining_s - REPLY_MARGIN_S
        call.deadline_s = time.monotonic() + usable_s
        late = "there was too little time for an answer; allow more"
        if usable_s <= 0:
            raise DeadlineExceededError(late)
        number = math.ceil(call.deadline_s / TICK_S)
        self._enter(call, number)
        try:
            return await answer(call)
        except asyncio.CancelledError:
            # As asyncio.timeout does it, without its making: cancelled by us and by nobody else?
            if call.ending is None or (call.task is not None and call.task.uncancel() > 0):
                raise
            if call.ending is Ending.REVOKED:
                raise PermissionDeniedError(
                    "this caller was revoked while it was being answered; ask the operator"
                ) from None
            raise DeadlineExceededError(late) from None
        finally:
            self._leave(call, number)

    def _enter(self, call: Call, number: int) -> None:
        tick = self._ticks.get(number)
        if tick is None:
            # The loop's clock is that of time.monotonic.
            timer = asyncio.get_running_loop().call_at(number * TICK_S, self._end, number)
            tick = self._ticks[number] = _Tick(timer)
        tick.calls.add(call)

    def _leave(self, call: Call, number: int) -> None:
        tick = self._ticks.get(number)
        if tick is None:
            return  # it is being ended
        tick.calls.discard(call)
        if not tick.calls:
            tick.timer.cancel()
            del self._ticks[number]

    def _end(self, number: int) -> None:
        for call in self._ticks.pop(number).calls:
            call.end(Ending.LATE)
