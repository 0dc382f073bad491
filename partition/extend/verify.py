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
from partition.extend.frames import Extend, Extended, NeedPrefill, Reply, Stale, Work, prefix_hash


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


class DraftingSession:
    """The device's side of one answer: committed ids, its own cache length, the frame in flight. Not thread-safe.

    Args:
        prompt: Token ids of the prompt, at least one.
        max_new_tokens: Limit of the answer.
        key: Key of the prefix hashes, sent to the cloud when the session is opened.
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
        self._cloud_len = 0
        self._round = 0
        self._in_flight: Extend | None = None
        self.cached_len = (
            0  # positions in the device's own cache; the drafter's owner keeps it up to date
        )
        self.num_prefills = 0  # times the cloud had lost the session

    @property
    def ids(self) -> tuple[int, ...]:
        """Committed ids: the prompt and what the cloud has confirmed."""
        return tuple(self._ids)

    @property
    def answer(self) -> tuple[int, ...]:
        """Confirmed ids of the answer, with the one that ends it."""
        return tuple(self._ids[self._num_prompt :])

    @property
    def is_finished(self) -> bool:
        """Whether the answer has ended or is as long as it may be."""
        answered = len(self._ids) > self._num_prompt
        return len(self._ids) >= self._limit or (answered and self._ids[-1] in self._end_ids)

    @property
    def to_feed(self) -> tuple[int, ...]:
        """Committed ids that the device's own cache lacks; feeding them gives the first draft."""
        return tuple(self._ids[self.cached_len :])

    @property
    def most_drafts(self) -> int:
        """Drafts that the next frame may carry; 0 while the cloud lacks more than the last committed token."""
        if self._cloud_len != len(self._ids) - 1:
            return 0
        return max(0, self._limit - len(self._ids) - 1)

    @property
    def is_prefilling(self) -> bool:
        """Whether the cloud lacks more than the last committed token: the next reply takes a prompt's time."""
        return self._cloud_len < len(self._ids) - 1

    def would_finish(self, more: Sequence[int]) -> bool:
        """Whether the answer would be finished with these ids behind the committed ones."""
        if not more:
            return self.is_finished
        return len(self._ids) + len(more) >= self._limit or more[-1] in self._end_ids

    @property
    def in_flight(self) -> Extend | None:
        """The frame that waits for its reply; sending it again is harmless."""
        return self._in_flight

    def open_frame(self, drafts: Sequence[int] = ()) -> Extend:
        """Make the frame of the next round.

        Raises:
            ValueError: A frame is in flight already, the answer is finished, or there are too many drafts.
        """
        if self._in_flight is not None or self.is_finished or len(drafts) > self.most_drafts:
            raise ValueError("no frame of that kind can be sent now")
        self._round += 1
        ids = (*self._ids[self._cloud_len :], *drafts)
        self._in_flight = Extend(
            round=self._round,
            base_len=self._cloud_len,
            prefix_hash=prefix_hash(self._key, self._ids[: self._cloud_len]),
            ids=ids,
            num_positions=len(ids),
            draft_len=len(drafts),
        )
        return self._in_flight

    def take(self, reply: Reply) -> tuple[int, ...] | None:
        """Commit what a reply confirms.

        Returns:
            The newly committed ids, for streaming; empty when the cloud needs the prompt again; None for a reply to
            another frame than the one in flight (late, repeated or reordered), which changes nothing.

        Raises:
            FrameError: The reply contradicts the frame: the peer is broken.
        """
        frame = self._in_flight
        if frame is None or not isinstance(reply, Extended | NeedPrefill):
            return None
        if reply.round != frame.round:
            return None
        if isinstance(reply, NeedPrefill):
            if reply.known_len > len(self._ids) - 1:
                raise FrameError("the cloud claims positions that were never sent")
            self._in_flight = None
            self._cloud_len = reply.known_len
            self.num_prefills += 1
            self.cached_len = min(self.cached_len, len(self._ids))
            return ()
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
        self._in_flight = None
        self._ids.extend(new)
        self._cloud_len = reply.len_after
        self.cached_len = min(self.cached_len, committed + reply.num_accepted)
        return new

    def abandon(self) -> None:
        """Give the frame in flight up; a late reply to it changes nothing."""
        self._in_flight = None
        self.cached_len = min(self.cached_len, len(self._ids))

    def check_integrity(self) -> None:
        """Assert what must hold between calls."""
        assert self._num_prompt <= len(self._ids) <= self._limit
        assert 0 <= self._cloud_len <= len(self._ids)
        assert self.cached_len >= 0
        if self._in_flight is not None:
            assert self._in_flight.round == self._round


class VerifyingSession:
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
        self._key = key
        self._end_ids = end_ids
        self._ids = list(ids)
        self._last: tuple[Extend, Extended] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the cached positions."""
        return tuple(self._ids)

    def admit(self, frame: Extend) -> Work | Reply:
        """Decide about one frame: a stored or immediate reply, or work to do. Changes nothing."""
        if self._last is not None:
            last_frame, last_reply = self._last
            if frame == last_frame:
                return last_reply
            if frame.round <= last_frame.round:
                return Stale(round=frame.round, last_round=last_frame.round)
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
        reply = Extended(
            round=frame.round,
            len_after=len(self._ids),
            num_accepted=num_accepted,
            next_id=next_id,
            end_of_sequence=next_id in self._end_ids,
            compute_us=compute_us,
            queue_us=queue_us,
        )
        self._last = (frame, reply)
        return reply
