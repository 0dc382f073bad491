"""One SPLIT session on either side: ids stay on the device, rows of hidden states and their hashes go to the cloud.

The device caches layers ``[0, k)``, the cloud ``[k, n)``, for the same positions. The cloud never sees an input id; it
knows a row by its keyed hash, which it stores beside the row's cache and cannot compute itself. The answer's ids are
the cloud's own choice, so those it knows. After NeedPrefill the device runs its layers again over the ids it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from partition.errors import FrameError
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Work, row_hashes
from partition.extend.sequence import CloudSequence, DeviceSequence


class SplittingSession(DeviceSequence):
    """The device's side of one answer. Not thread-safe; the key of the row hashes never leaves the device."""

    def __init__(
        self, prompt: Sequence[int], *, max_new_tokens: int, key: bytes, end_ids: Set[int]
    ) -> None:
        super().__init__(prompt, max_new_tokens=max_new_tokens, key=key, end_ids=end_ids)
        self._hashes: list[bytes] = []  # of ids[0:i + 1]

    @property
    def to_send(self) -> tuple[int, ...]:
        """Ids whose rows the cloud lacks."""
        return tuple(self._ids[self.cloud_len :])

    def open_frame(self, activations: bytes, num_positions: int) -> Extend:
        """Make the frame that carries the rows of the next ``num_positions`` ids of :attr:`to_send`.

        Raises:
            ValueError: A frame is in flight already, or there are no such positions.
        """
        if not 0 < num_positions <= len(self.to_send):
            raise ValueError("no frame of that kind can be sent now")
        number = self._next_round()
        if len(self._hashes) < len(self._ids):
            self._hashes.extend(row_hashes(self._key, self._ids, len(self._hashes)))
        base = self.cloud_len
        self._in_flight = Extend(
            round=number,
            base_len=base,
            prefix_hash=self._hashes[base - 1] if base else _NO_ROWS,
            activations=activations,
            num_positions=num_positions,
            row_hashes=tuple(self._hashes[base : base + num_positions]),
        )
        return self._in_flight

    def _commit(self, frame: Extend, reply: Extended) -> tuple[int, ...]:
        if reply.len_after != frame.base_len + frame.num_positions:
            raise FrameError("the cloud's cache has another length than the frame implies")
        self.cloud_len = reply.len_after
        if self.cloud_len < len(self._ids):
            return ()  # the cloud's choice after a part of the prompt means nothing
        self._ids.append(reply.next_id)
        return (reply.next_id,)


class TailSession(CloudSequence):
    """The cloud's side of one session: which rows its cache holds, and the last reply. Not thread-safe.

    Used as :class:`partition.extend.verify.VerifyingSession` is, with one target a frame: the token after its last row.
    """

    def __init__(self, *, end_ids: Set[int]) -> None:
        super().__init__(end_ids=end_ids)
        self._hashes: list[bytes] = []

    @property
    def num_positions(self) -> int:
        """Cached positions."""
        return len(self._hashes)

    def admit(self, frame: Extend) -> Work | Reply:
        """Decide about one frame: a stored or immediate reply, or work to do. Changes nothing."""
        known = self._recall(frame)
        if known is not None:
            return known
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
        return self._reply(
            frame,
            len_after=len(self._hashes),
            num_accepted=0,
            next_id=next_id,
            compute_us=compute_us,
            queue_us=queue_us,
        )


_NO_ROWS = bytes(8)
