"""A cloud that verifies or runs the last layers, and a link that loses, repeats and reorders, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from partition.extend.activations import decode
from partition.extend.frames import Extend, Extended, Mismatch, Reply, Work
from partition.extend.split import TailSession
from partition.extend.verify import VerifyingSession
from partition.generation.sampling import SamplingRule, choose
from partition.stages.stage import Stage
from tests.numpy_stage import WIDTH
from tests.simulators import Clock

_NAME = "cloud"


class VerifyServer:
    """The cloud's side of VERIFY over any whole stage."""

    def __init__(self, stage: Stage, rule: SamplingRule, *, key: bytes, end_ids: set[int]) -> None:
        self._stage, self._rule, self._key, self._end_ids = stage, rule, key, end_ids
        self.num_passes = 0
        self.evict()

    def evict(self) -> None:
        self._session = VerifyingSession(key=self._key, end_ids=self._end_ids)
        self._stage.forget(_NAME)

    def handle(self, frame: Extend) -> Reply:
        frame.check_ids(vocabulary_size=10_000_000, max_positions=100_000)
        work = self._session.admit(frame)
        if not isinstance(work, Work):
            return work
        self.num_passes += 1
        first = len(work.ids) - frame.draft_len - 1
        rows = np.arange(first, len(work.ids), dtype=np.int64)
        output = self._stage.extend(
            _NAME, work.ids.astype(np.int32), base_len=work.crop_to, rows=rows
        )
        assert output.logits is not None
        targets = [
            choose(logits, self._rule, position=work.crop_to + int(row) + 1)
            for row, logits in zip(rows, output.logits, strict=True)
        ]
        reply = self._session.settle(work, targets)
        self._stage.rewind(_NAME, reply.len_after)
        return reply


class TailServer:
    """The cloud's side of SPLIT over a last stage."""

    def __init__(
        self, stage: Stage, rule: SamplingRule, *, end_ids: set[int], width: int = WIDTH
    ) -> None:
        self._stage, self._rule, self._end_ids, self._width = stage, rule, end_ids, width
        self.evict()

    def evict(self) -> None:
        self._session = TailSession(end_ids=self._end_ids)
        self._stage.forget(_NAME)

    def handle(self, frame: Extend) -> Reply:
        frame.check_rows(max_positions=100_000)
        work = self._session.admit(frame)
        if not isinstance(work, Work):
            return work
        rows = decode(frame.activations, width=self._width, max_rows=frame.num_positions)
        assert len(rows) == frame.num_positions
        output = self._stage.extend(_NAME, rows, base_len=work.crop_to)
        assert output.logits is not None
        position = work.crop_to + len(rows)
        return self._session.settle(work, choose(output.logits[-1], self._rule, position=position))


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often a link does what; each in [0, 1]."""

    lost: float = 0.0  # either way
    twice: float = 0.0
    late: float = 0.0  # by more than the next frame takes
    evicted: float = 0.0  # the cloud forgets the session before the frame


class SimulatedFrames:
    """A frame channel in simulated time; implements ``edge_agent.cloud.frame_channel.FrameChannel``.

    Args:
        handle: The cloud.
        clock: The device's clock; receiving moves it.
        trip_s: Round trip.
        faults: What goes wrong.
        evict: Called when the cloud forgets.
        seed: Of the faults.
        gone_after: Frames after which the cloud cannot be reached any more.
        silent_after: Frames after which it can be reached, and says nothing.
    """

    def __init__(
        self,
        handle: Callable[[Extend], Reply],
        *,
        clock: Clock,
        trip_s: float = 0.02,
        faults: Faults | None = None,
        evict: Callable[[], None] = lambda: None,
        seed: int = 0,
        gone_after: int | None = None,
        silent_after: int | None = None,
        mismatch: str = "",
    ) -> None:
        self._handle, self._clock, self._trip_s = handle, clock, trip_s
        self._faults, self._evict = faults or Faults(), evict
        self._random = np.random.default_rng(seed)
        self._gone_after, self._silent_after, self._mismatch = gone_after, silent_after, mismatch
        self._on_the_way: list[tuple[float, Reply]] = []
        self.sent_bytes = 0
        self.received_at = 0.0
        self.num_sent = 0
        self.is_closed = False

    @property
    def is_reachable(self) -> bool:
        return self._gone_after is None or self.num_sent <= self._gone_after

    def send(self, frame: Extend) -> None:
        self.num_sent += 1
        self.sent_bytes += 4 * len(frame.ids) + len(frame.activations) + 60
        is_silent = self._silent_after is not None and self.num_sent > self._silent_after
        if is_silent or not self.is_reachable or self._happens(self._faults.lost):
            return
        if self._happens(self._faults.evicted):
            self._evict()
        for _ in range(2 if self._happens(self._faults.twice) else 1):
            if self._mismatch:
                reply: Reply = Mismatch(field=self._mismatch)
            else:
                started = self._clock.now
                reply = self._handle(frame)
                # The cloud's stage may have passed time; on the device's clock that is part of the wait.
                server_s, self._clock.now = self._clock.now - started, started
                if isinstance(reply, Extended):
                    reply = replace(reply, compute_us=round(server_s * 1e6))
                self._arrive(reply, self._trip_s + server_s)
                continue
            self._arrive(reply, self._trip_s)

    def _arrive(self, reply: Reply, after_s: float) -> None:
        if not self._happens(self._faults.lost):
            late = 20 * self._trip_s if self._happens(self._faults.late) else 0.0
            self._on_the_way.append((self._clock.now + after_s + late, reply))
            self._on_the_way.sort(key=lambda item: item[0])

    def receive(self, timeout_s: float) -> Reply | None:
        until = self._clock.now + timeout_s
        if not self._on_the_way or self._on_the_way[0][0] > until:
            self._clock.now = until
            return None
        arrives, reply = self._on_the_way.pop(0)
        self._clock.now = max(self._clock.now, arrives)
        self.received_at = arrives
        return reply

    def close(self) -> None:
        self.is_closed = True

    def _happens(self, share: float) -> bool:
        return bool(self._random.random() < share)
