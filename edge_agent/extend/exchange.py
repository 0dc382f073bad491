"""One frame and its reply: sent, waited for, sent once more when it was missed. VERIFY and SPLIT both go by it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.cloud.frame_channel import FrameChannel
from partition.errors import FrameError
from partition.extend.fallback import Health, Step, next_step, reply_timeout_s
from partition.extend.frames import Extend, Extended, Mismatch, NeedPrefill
from partition.extend.sequence import DeviceSequence
from partition.planning.link import Average

logger = logging.getLogger(__name__)

PROMPT_TIMEOUT_S = 20.0  # for the reply to a whole prompt, and before anything was measured
LEAST_TIMEOUT_S = (
    2.0  # gRPC loses no frame while its connection lives, so a busy machine is likelier than a loss
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """A frame that was answered."""

    reply: Extended | NeedPrefill
    new_ids: tuple[int, ...] = field(repr=False)  # committed by it
    num_positions: int  # that the cloud ran
    sent_bytes: int
    elapsed_s: float  # from the last time it was sent
    is_repeated: bool  # sent twice: nobody knows which of the two was answered

    @property
    def server_s(self) -> float:
        """Queue and compute time that the reply reports."""
        if not isinstance(self.reply, Extended):
            return 0.0
        return (self.reply.compute_us + self.reply.queue_us) / 1e6


OnExchange = Callable[[Exchanged], None]


class Exchange:
    """Carries the frames of one sequence. Not thread-safe; lives as long as the answer.

    Args:
        sequence: Takes the replies.
        channel: The way to the cloud, open.
        clock: Monotonic seconds.
        prompt_timeout_s: How long to wait for the reply to a part of the prompt.
        on_exchange: Told of every answered frame that was sent once: a sample of link and cloud.
    """

    def __init__(
        self,
        sequence: DeviceSequence,
        channel: FrameChannel,
        *,
        clock: Callable[[], float],
        prompt_timeout_s: float = PROMPT_TIMEOUT_S,
        on_exchange: OnExchange = lambda exchanged: None,
    ) -> None:
        self._sequence = sequence
        self._channel = channel
        self._clock = clock
        self._prompt_timeout_s = prompt_timeout_s
        self._on_exchange = on_exchange
        self.round_trip = Average()
        self.server = Average()

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far, framing included."""
        return self._channel.sent_bytes

    def carry(
        self,
        frame: Extend,
        *,
        is_prompt: bool,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Exchanged | Mismatch | Step:
        """Send one frame and commit its reply.

        Args:
            frame: Just opened by the sequence.
            is_prompt: It carries a part of the prompt, so that its reply may take long.
            meanwhile: Done while it is on its way.

        Returns:
            The exchange; what the two sides disagree on; or how the answer goes on without this frame.
        """
        bytes_before = self._channel.sent_bytes
        self._channel.send(frame)
        sent_at = self._clock()
        meanwhile()
        misses = 0
        while True:
            timeout_s = self._timeout_s(is_prompt=is_prompt)
            reply = self._channel.receive(max(0.0, sent_at + timeout_s - self._clock()))
            if isinstance(reply, Mismatch):
                return reply
            if reply is None:
                misses += 1
                step = next_step(Health(num_misses=misses, is_reachable=self._channel.is_reachable))
                if step is not Step.REPEAT:
                    return step
                logger.debug("round %d is sent again", frame.round)
                self._channel.send(frame)
                sent_at = self._clock()
                continue
            try:
                new = self._sequence.take(reply)
            except FrameError:
                return Mismatch(field="reply")  # a broken peer: send text
            if new is None or not isinstance(reply, Extended | NeedPrefill):
                continue  # of another frame: late, or twice
            exchanged = Exchanged(
                reply=reply,
                new_ids=new,
                num_positions=frame.num_positions,
                sent_bytes=self._channel.sent_bytes - bytes_before,
                elapsed_s=self._channel.received_at - sent_at,
                is_repeated=misses > 0,
            )
            self._learn(exchanged, is_prompt=is_prompt)
            return exchanged

    def _learn(self, exchanged: Exchanged, *, is_prompt: bool) -> None:
        # Of a frame sent twice the wrong one may have been timed.
        if exchanged.is_repeated or isinstance(exchanged.reply, NeedPrefill):
            return
        self._on_exchange(exchanged)
        if is_prompt:
            return  # takes much longer than a round: no measure for its timeout
        self.round_trip.add(max(0.0, exchanged.elapsed_s - exchanged.server_s))
        self.server.add(exchanged.server_s)

    def _timeout_s(self, *, is_prompt: bool) -> float:
        trip, server = self.round_trip.percentile(0.95), self.server.percentile(0.95)
        if is_prompt or trip is None or server is None:
            return self._prompt_timeout_s
        return max(LEAST_TIMEOUT_S, reply_timeout_s(trip, server))
