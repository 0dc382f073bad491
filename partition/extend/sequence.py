"""What VERIFY and SPLIT have in common: one sequence that device and cloud share, and the numbering of its frames.

The device keeps the committed ids and at most one frame in flight; the cloud keeps the last frame with its reply, so that a
repeated one costs no work. What a frame carries and what a reply commits is each mode's own
(:mod:`partition.extend.verify`, :mod:`partition.extend.split`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set

from partition.errors import FrameError
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Stale


class DeviceSequence(ABC):
    """The device's side of one answer. Not thread-safe.

    Args:
        prompt: Token ids of the prompt, at least one.
        max_new_tokens: Limit of the answer.
        key: Key of the prefix or row hashes.
        end_ids: Ids that end a sequence.
    """

    def __init__(
        self, prompt: Sequence[int], *, max_new_tokens: int, key: bytes, end_ids: Set[int]
    ) -> None:
        if not prompt or max_new_tokens < 1:
            raise ValueError("a session needs a prompt and room for an answer")
        self._ids = list(prompt)
        self._num_prompt = len(prompt)
        self._limit = len(prompt) + max_new_tokens
        self._key = key
        self._end_ids = end_ids
        self._round = 0
        self._in_flight: Extend | None = None
        self.cloud_len = 0  # positions the cloud holds
        self.num_prefills = 0  # times the cloud had lost the session

    @property
    def ids(self) -> tuple[int, ...]:
        """Committed ids: the prompt and the answer so far."""
        return tuple(self._ids)

    @property
    def answer(self) -> tuple[int, ...]:
        """Committed ids of the answer, with the one that ends it."""
        return tuple(self._ids[self._num_prompt :])

    @property
    def is_finished(self) -> bool:
        """Whether the answer has ended or is as long as it may be."""
        answered = len(self._ids) > self._num_prompt
        return len(self._ids) >= self._limit or (answered and self._ids[-1] in self._end_ids)

    @property
    def in_flight(self) -> Extend | None:
        """The frame that waits for its reply; sending it again is harmless."""
        return self._in_flight

    def take(self, reply: Reply) -> tuple[int, ...] | None:
        """Commit what a reply says.

        Returns:
            The newly committed ids, for streaming; empty when more must be sent first; None for a reply to another frame
            than the one in flight (late, repeated or reordered), which changes nothing.

        Raises:
            FrameError: The reply contradicts the frame: the peer is broken.
        """
        frame = self._in_flight
        if frame is None or not isinstance(reply, Extended | NeedPrefill):
            return None
        if reply.round != frame.round:
            return None
        if isinstance(reply, Extended):
            new = self._commit(frame, reply)
            self._in_flight = None
            return new
        if reply.known_len > frame.base_len:
            raise FrameError("the cloud claims positions that were never sent")
        self._in_flight = None
        self.cloud_len = reply.known_len
        self.num_prefills += 1
        return ()

    def _next_round(self) -> int:
        """Number of the frame that is about to be made.

        Raises:
            ValueError: A frame is in flight already.
        """
        if self._in_flight is not None:
            raise ValueError("a frame is in flight; take its reply first")
        self._round += 1
        return self._round

    @abstractmethod
    def _commit(self, frame: Extend, reply: Extended) -> tuple[int, ...]:
        """Check a reply to ``frame``, and add what it says to the ids and to ``cloud_len``."""


class CloudSequence:
    """The cloud's side of one session: its last frame with the reply. Not thread-safe.

    Args:
        end_ids: Ids that end a sequence.
    """

    def __init__(self, *, end_ids: Set[int]) -> None:
        self._end_ids = end_ids
        self._last: tuple[Extend, Extended] | None = None

    def _recall(self, frame: Extend) -> Extended | Stale | None:
        """The stored reply of a repeated frame, or that it is an old one; None for a new frame."""
        if self._last is None:
            return None
        last_frame, last_reply = self._last
        if frame == last_frame:
            return last_reply
        if frame.round <= last_frame.round:
            return Stale(round=frame.round, last_round=last_frame.round)
        return None

    def _reply(
        self,
        frame: Extend,
        *,
        len_after: int,
        num_accepted: int,
        next_id: int,
        compute_us: int,
        queue_us: int,
    ) -> Extended:
        """Make the reply of a frame and store it."""
        reply = Extended(
            round=frame.round,
            len_after=len_after,
            num_accepted=num_accepted,
            next_id=next_id,
            end_of_sequence=next_id in self._end_ids,
            compute_us=compute_us,
            queue_us=queue_us,
        )
        self._last = (frame, reply)
        return reply
