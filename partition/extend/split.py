"""One SPLIT session on either side: ids stay on the device, rows of hidden states and their hashes go to the cloud.

The device caches layers ``[0, k)``, the cloud ``[k, n)``, for the same positions. The cloud never sees an input id; it
knows a row by its keyed hash, which it stores beside the row's cache and cannot compute itself. The answer's ids are
the cloud's own choice, so those it knows. After NeedPrefill the device runs its layers again over the ids it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from partition.errors import FrameError
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Stale, Work, row_hashes


class SplittingSession:
    """The device's side of one answer. Not thread-safe.

    Args:
        prompt: Token ids of the prompt, at least one.
        max_new_tokens: Limit of the answer.
        key: Key of the row hashes; never leaves the device.
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
        self._hashes: list[bytes] = []  # of ids[0:i + 1]
        self._round = 0
        self._in_flight: Extend | None = None
        self.cloud_len = 0  # positions the cloud holds
        self.num_prefills = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt and the answer so far."""
        return tuple(self._ids)

    @property
    def answer(self) -> tuple[int, ...]:
        """Ids of the answer, with the one that ends it."""
        return tuple(self._ids[self._num_prompt :])

    @property
    def is_finished(self) -> bool:
        """Whether the answer has ended or is as long as it may be."""
        answered = len(self._ids) > self._num_prompt
        return len(self._ids) >= self._limit or (answered and self._ids[-1] in self._end_ids)

    @property
    def to_send(self) -> tuple[int, ...]:
        """Ids whose rows the cloud lacks."""
        return tuple(self._ids[self.cloud_len :])

    @property
    def in_flight(self) -> Extend | None:
        """The frame that waits for its reply; sending it again is harmless."""
        return self._in_flight

    def open_frame(self, activations: bytes, num_positions: int) -> Extend:
        """Make the frame that carries the rows of the next ``num_positions`` ids of :attr:`to_send`.

        Raises:
            ValueError: A frame is in flight already, or there are no such positions.
        """
        if self._in_flight is not None or not 0 < num_positions <= len(self.to_send):
            raise ValueError("no frame of that kind can be sent now")
        if len(self._hashes) < len(self._ids):
            self._hashes.extend(row_hashes(self._key, self._ids, len(self._hashes)))
        base = self.cloud_len
        self._round += 1
        self._in_flight = Extend(
            round=self._round,
            base_len=base,
            prefix_hash=self._hashes[base - 1] if base else _NO_ROWS,
            activations=activations,
            num_positions=num_positions,
            row_hashes=tuple(self._hashes[base : base + num_positions]),
        )
        return self._in_flight

    def take(self, reply: Reply) -> tuple[int, ...] | None:
        """Commit what a reply says.

        Returns:
            The new id of the answer; empty when more rows must go first; None for a reply to another frame.

        Raises:
            FrameError: The reply contradicts the frame: the peer is broken.
        """
        frame = self._in_flight
        if frame is None or not isinstance(reply, Extended | NeedPrefill):
            return None
        if reply.round != frame.round:
            return None
        if isinstance(reply, NeedPrefill):
            if reply.known_len > frame.base_len:
                raise FrameError("the cloud claims positions that were never sent")
            self._in_flight = None
            self.cloud_len = reply.known_len
            self.num_prefills += 1
            return ()
        if reply.len_after != frame.base_len + frame.num_positions:
            raise FrameError("the cloud's cache has another length than the frame implies")
        self._in_flight = None
        self.cloud_len = reply.len_after
        if self.cloud_len < len(self._ids):
            return ()  # the cloud's choice after a part of the prompt means nothing
        self._ids.append(reply.next_id)
        return (reply.next_id,)


class TailSession:
    """The cloud's side of one session: which rows its cache holds, and the last reply. Not thread-safe.

    Used as :class:`partition.extend.verify.VerifyingSession` is, with one target a frame: the token after its last row.
    """

    def __init__(self, *, end_ids: Set[int]) -> None:
        self._end_ids = end_ids
        self._hashes: list[bytes] = []
        self._last: tuple[Extend, Extended] | None = None

    @property
    def num_positions(self) -> int:
        """Cached positions."""
        return len(self._hashes)

    def admit(self, frame: Extend) -> Work | Reply:
        """Decide about one frame: a stored or immediate reply, or work to do. Changes nothing."""
        if self._last is not None:
            last_frame, last_reply = self._last
            if frame == last_frame:
                return last_reply
            if frame.round <= last_frame.round:
                return Stale(round=frame.round, last_round=last_frame.round)
        if frame.base_len > len(self._hashes):
            return NeedPrefill(round=frame.round, known_len=len(self._hashes))
        if frame.base_len and frame.prefix_hash != self._hashes[frame.base_len - 1]:
            return NeedPrefill(round=frame.round, known_len=0)
        return Work(frame=frame, crop_to=frame.base_len, ids=np.empty(0, dtype=np.int64))

    def settle(
        self, work: Work, next_id: int, *, compute_us: int = 0, queue_us: int = 0
    ) -> Extended:
        """Store what the work came to and make its reply."""
        frame = work.frame
        self._hashes = [*self._hashes[: frame.base_len], *frame.row_hashes]
        reply = Extended(
            round=frame.round,
            len_after=len(self._hashes),
            num_accepted=0,
            next_id=next_id,
            end_of_sequence=next_id in self._end_ids,
            compute_us=compute_us,
            queue_us=queue_us,
        )
        self._last = (frame, reply)
        return reply


_NO_ROWS = bytes(8)
