"""One VERIFY session on either side: which ids, positions and cache lengths each round has. No model, no network.

Between rounds the committed ids are ``x[0:L)`` and the cloud caches L - 1 positions: the last committed token has not
been fed to it yet.

    device   feeds the committed ids it has not cached, then drafts d_0 .. d_(gamma-1); d_i is for position L + i
    frame    base_len = L - 1, ids = x[L-1], d_0 .. d_(gamma-1)
    cloud    targets y_0 .. y_gamma for the positions L .. L + gamma; accepts the longest run of y_i == d_i;
             next_id = y at the first difference; crops its cache to L + num_accepted
    device   commits the accepted drafts and next_id: L' = L + num_accepted + 1; crops to min(cached, L + num_accepted)

An accepted draft that ends the sequence is not counted as accepted: it is ``next_id``, so the end is always there.
The targets are functions of (prefix, seed, position) alone: greedy, or the shared-seed Gumbel rule (2408.07978) of
:mod:`partition.generation.sampling`. So the text is the cloud's own, whatever the device drafts.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from partition.errors import FrameError
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Work, prefix_hash
from partition.extend.sequence import CloudSequence, DeviceSequence


def accept(
    drafts: Sequence[int], targets: Sequence[int], end_ids: Set[int] = frozenset()
) -> tuple[int, int]:
    """Compare drafts with the verifier's own tokens.

    Args:
        drafts: Token ids d_0 .. d_(gamma-1).
        targets: The verifier's tokens y_0 .. y_gamma for the same positions and one more.
        end_ids: Ids that end a sequence.

    Returns:
        How many drafts stand, and the verifier's token after them.

    Raises:
        ValueError: There is not exactly one target more than drafts.
    """
    if len(targets) != len(drafts) + 1:
        raise ValueError("a verifier gives one token for each draft, and one more")
    for accepted, (draft, target) in enumerate(zip(drafts, targets, strict=False)):
        if draft != target or target in end_ids:
            return accepted, target
    return len(drafts), targets[-1]


class DraftingSession(DeviceSequence):
    """The device's side of one answer, with its own cache length. Not thread-safe.

    The key of the prefix hashes is sent to the cloud when the session is opened.
    """

    def __init__(
        self, prompt: Sequence[int], *, max_new_tokens: int, key: bytes, end_ids: Set[int]
    ) -> None:
        super().__init__(prompt, max_new_tokens=max_new_tokens, key=key, end_ids=end_ids)
        self.cached_len = (
            0  # positions in the device's own cache; the drafter's owner keeps it up to date
        )

    @property
    def to_feed(self) -> tuple[int, ...]:
        """Committed ids that the device's own cache lacks; feeding them gives the first draft."""
        return tuple(self._ids[self.cached_len :])

    @property
    def most_drafts(self) -> int:
        """Drafts that the next frame may carry; 0 while the cloud lacks more than the last committed token."""
        if self.cloud_len != len(self._ids) - 1:
            return 0
        return max(0, self._limit - len(self._ids) - 1)

    @property
    def is_prefilling(self) -> bool:
        """Whether the cloud lacks more than the last committed token: the next reply takes a prompt's time."""
        return self.cloud_len < len(self._ids) - 1

    def would_finish(self, more: Sequence[int]) -> bool:
        """Whether the answer would be finished with these ids behind the committed ones."""
        if not more:
            return self.is_finished
        return len(self._ids) + len(more) >= self._limit or more[-1] in self._end_ids

    def open_frame(self, drafts: Sequence[int] = ()) -> Extend:
        """Make the frame of the next round.

        Raises:
            ValueError: A frame is in flight already, the answer is finished, or there are too many drafts.
        """
        if self.is_finished or len(drafts) > self.most_drafts:
            raise ValueError("no frame of that kind can be sent now")
        number = self._next_round()
        ids = (*self._ids[self.cloud_len :], *drafts)
        self._in_flight = Extend(
            round=number,
            base_len=self.cloud_len,
            prefix_hash=prefix_hash(self._key, self._ids[: self.cloud_len]),
            ids=ids,
            num_positions=len(ids),
            draft_len=len(drafts),
        )
        return self._in_flight

    def take(self, reply: Reply) -> tuple[int, ...] | None:
        """See :meth:`partition.extend.sequence.DeviceSequence.take`; empty when the cloud needs the prompt again."""
        new = super().take(reply)
        self.cached_len = min(self.cached_len, len(self._ids))
        return new

    def _commit(self, frame: Extend, reply: Extended) -> tuple[int, ...]:
        committed = len(self._ids)
        if not 0 <= reply.num_accepted <= frame.draft_len:
            raise FrameError("the cloud accepts more drafts than it was sent")
        if reply.len_after != committed + reply.num_accepted:
            raise FrameError("the cloud's cache has another length than the frame implies")
        drafts = frame.ids[len(frame.ids) - frame.draft_len :]
        new = (*drafts[: reply.num_accepted], reply.next_id)
        for index, token in enumerate(new):
            if token in self._end_ids:
                new = new[: index + 1]
                break
        self._ids.extend(new)
        self.cloud_len = reply.len_after
        self.cached_len = min(self.cached_len, committed + reply.num_accepted)
        return new

    def abandon(self) -> None:
        """Give the frame in flight up; a late reply to it changes nothing."""
        self._in_flight = None
        self.cached_len = min(self.cached_len, len(self._ids))

    def check_integrity(self) -> None:
        """Assert what must hold between calls."""
        assert self._num_prompt <= len(self._ids) <= self._limit
        assert 0 <= self.cloud_len <= len(self._ids)
        assert self.cached_len >= 0
        if self._in_flight is not None:
            assert self._in_flight.round == self._round


class VerifyingSession(CloudSequence):
    """The cloud's side of one session: which ids its cache holds, and the last reply. Not thread-safe.

    ``admit`` says what to do with a frame; for a :class:`Work` the owner crops its cache to ``crop_to``, extends it by
    the ids, and calls ``settle`` with the tokens its sampler chose for the last ``draft_len + 1`` positions; then it
    crops its cache to ``len_after`` of the reply.

    Args:
        key: Key of the prefix hashes.
        end_ids: Ids that end a sequence.
        ids: Positions already cached, when a session is restored.
    """

    def __init__(self, *, key: bytes, end_ids: Set[int], ids: Sequence[int] = ()) -> None:
        super().__init__(end_ids=end_ids)
        self._key = key
        self._ids = list(ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the cached positions."""
        return tuple(self._ids)

    def admit(self, frame: Extend) -> Work | Reply:
        """Decide about one frame: a stored or immediate reply, or work to do. Changes nothing."""
        known = self._recall(frame)
        if known is not None:
            return known
        if frame.base_len > len(self._ids):
            return NeedPrefill(round=frame.round, known_len=len(self._ids))
        if frame.prefix_hash != prefix_hash(self._key, self._ids[: frame.base_len]):
            return NeedPrefill(round=frame.round, known_len=0)
        return Work(frame=frame, crop_to=frame.base_len, ids=np.asarray(frame.ids, dtype=np.int64))

    def settle(
        self, work: Work, targets: Sequence[int], *, compute_us: int = 0, queue_us: int = 0
    ) -> Extended:
        """Store what the work came to and make its reply.

        Args:
            work: What :meth:`admit` returned.
            targets: The verifier's tokens for the last ``draft_len + 1`` positions.
            compute_us: What the extension took.
            queue_us: How long the frame waited for its turn.
        """
        frame = work.frame
        drafts = frame.ids[len(frame.ids) - frame.draft_len :]
        num_accepted, next_id = accept(drafts, targets, self._end_ids)
        kept = len(frame.ids) - frame.draft_len + num_accepted
        self._ids = [*self._ids[: frame.base_len], *frame.ids[:kept]]
        return self._reply(
            frame,
            len_after=len(self._ids),
            num_accepted=num_accepted,
            next_id=next_id,
            compute_us=compute_us,
            queue_us=queue_us,
        )
