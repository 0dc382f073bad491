"""What device and cloud say to each other while they share one sequence: VERIFY and SPLIT use the same frames.

    device                                    cloud
    Open      what both must agree on    ->
                                         <-   Opened, or Mismatch naming the first field that differs
    Extend    positions after base_len   ->
                                         <-   Extended, or NeedPrefill, Stale

``base_len`` is the number of positions both sides hold before the frame. A cloud that holds more crops to it, so taking
back a draft needs no message of its own; one that holds fewer, or others, says NeedPrefill and never guesses. A frame
is known by (session, round): a repeated one gets the stored reply without any work, an older one gets Stale. So every
frame may be sent twice, late, or in the wrong order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partition.errors import FrameError

PREFIX_HASH_BYTES = 8
PREFIX_KEY_BYTES = 32


def prefix_hash(key: bytes, ids: Sequence[int]) -> bytes:
    """Digest of a prefix of token ids, keyed: without a key it would confirm guesses about the text.

    Args:
        key: 16 to 64 secret bytes of the session. VERIFY sends it to the cloud; SPLIT keeps it on the device.
        ids: The token ids before ``base_len``.

    Returns:
        Keyed BLAKE2b over the ids as little-endian uint32, 8 bytes.
    """
    data = np.asarray(ids, dtype="<u4").tobytes()
    return hashlib.blake2b(data, key=key, digest_size=PREFIX_HASH_BYTES).digest()


def row_hashes(key: bytes, ids: Sequence[int], start: int) -> tuple[bytes, ...]:
    """Digests of ``ids[0:i + 1]`` for every position i from ``start`` on; a SPLIT sends one with each row."""
    data = np.asarray(ids, dtype="<u4")
    state = hashlib.blake2b(data[:start].tobytes(), key=key, digest_size=PREFIX_HASH_BYTES)
    digests = []
    for word in data[start:]:
        state.update(word.tobytes())
        digests.append(state.copy().digest())
    return tuple(digests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Everything both sides must agree on before any work; compared field by field, in this order."""

    fingerprint: str  # of the cloud's model
    tokenizer_sha256: str
    chat_template_sha256: str
    vocabulary_size: int

    def first_difference(self, other: Agreement) -> str | None:
        """Name of the first field that differs, or None."""
        for name in self.__slots__:
            if getattr(self, name) != getattr(other, name):
                return name
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """One frame of the device: positions to append after ``base_len``."""

    round: int
    base_len: int  # positions both sides hold before this frame
    prefix_hash: bytes  # of the ids before base_len
    ids: tuple[int, ...] = field(default=(), repr=False)  # VERIFY
    activations: bytes = field(
        default=b"", repr=False
    )  # SPLIT, a frame of partition.extend.activations
    num_positions: int
    draft_len: int = 0  # the last draft_len of ids are drafts
    row_hashes: tuple[bytes, ...] = field(default=(), repr=False)  # SPLIT, one a position
    deadline_ms: int = 0  # 0: none

    def check_ids(self, *, vocabulary_size: int, max_positions: int) -> None:
        """Check a VERIFY frame that came from anybody.

        Raises:
            FrameError: It contradicts itself, or is beyond the model's vocabulary or context.
        """
        if not self.ids or self.num_positions != len(self.ids) or self.activations:
            raise FrameError("a frame to verify carries token ids, as many as it says")
        if not 0 <= self.draft_len < len(self.ids):
            raise FrameError("a frame to verify carries one id more than drafts, at least")
        if not (min(self.ids) >= 0 and max(self.ids) < vocabulary_size):
            raise FrameError("a frame to verify holds an id outside the vocabulary")
        self._check_lengths(max_positions)

    def check_rows(self, *, max_positions: int) -> None:
        """Check a SPLIT frame that came from anybody, apart from its activations.

        Raises:
            FrameError: It contradicts itself, or is beyond the model's context.
        """
        if self.ids or self.draft_len or not self.activations:
            raise FrameError("a frame of a split carries activations and no ids")
        if self.num_positions < 1 or self.num_positions != len(self.row_hashes):
            raise FrameError("a frame of a split carries one hash for each position")
        if any(len(digest) != PREFIX_HASH_BYTES for digest in self.row_hashes):
            raise FrameError("a hash of a row has 8 bytes")
        self._check_lengths(max_positions)

    def _check_lengths(self, max_positions: int) -> None:
        if self.base_len < 0 or self.base_len + self.num_positions > max_positions:
            raise FrameError(f"a frame ends beyond the {max_positions} positions of the model")
        if len(self.prefix_hash) != PREFIX_HASH_BYTES:
            raise FrameError("the hash of a prefix has 8 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """The cloud's answer to one frame."""

    round: int
    len_after: int  # positions the cloud holds now
    num_accepted: int  # drafts that stand
    next_id: int = field(repr=False)  # the cloud's own token after them
    end_of_sequence: bool = False  # next_id ends the answer
    compute_us: int = 0
    queue_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedPrefill:
    """The cloud holds only the first ``known_len`` positions: send the rest."""

    round: int
    known_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The frame is older than the last answered one."""

    round: int
    last_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The two sides do not run the same thing; the request goes CLOUD as text."""

    field: str


Reply = Extended | NeedPrefill | Stale | Mismatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """What the cloud has to compute for a frame it accepted."""

    frame: Extend
    crop_to: int  # positions to keep before appending
    ids: NDArray[np.int64]  # (num_positions,) for a first stage, empty for a later one
