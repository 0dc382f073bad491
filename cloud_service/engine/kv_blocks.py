"""Which block of the KV cache belongs to whom: reference counts, and a prefix cache of blocks that nobody uses now.

A block holds :data:`BLOCK_TOKENS` positions of every layer. It is in exactly one of three states:

    free    nobody's, its content worthless
    used    in the table of one or more sequences
    idle    of no sequence, but its content is known by a digest, so that a later prompt may find it; reused oldest first

A digest chains the ids of all blocks before, keyed with a secret of the tenant: no tenant can learn by timing what another
one asked. No tensors here; the memory itself is :class:`cloud_service.engine.paged_attention.PagedMemory`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

BLOCK_TOKENS = 16
_DIGEST_BYTES = 16
_SALT_BYTES = 32


class BlockPool:
    """Owner of the blocks ``0 .. num_blocks - 1``. Not thread-safe."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Blocks that can be allocated: free and idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks in the table of some sequence."""
        return self.num_blocks - self.num_available

    def allocate(self) -> int:
        """Take a block for one sequence; its content is to be overwritten.

        Raises:
            IndexError: None is available.
        """
        if self._free:
            block = self._free.pop()
        else:
            if not self._idle:
                raise IndexError("no block is available")
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._references[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        """Take the block with this content for one more sequence, if there is one."""
        block = self._block_of.get(digest)
        if block is None:
            return None
        if self._references[block] == 0:
            del self._idle[block]
        self._references[block] += 1
        return block

    def publish(self, block: int, digest: bytes) -> None:
        """Say what a used, full block holds; of two blocks with one content the first stays the known one."""
        assert self._references[block] > 0
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, block: int) -> None:
        """One sequence less uses it."""
        assert self._references[block] > 0
        self._references[block] -= 1
        if self._references[block] == 0:
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Whether its content may not be changed: others use it, or it is known by its digest."""
        return self._references[block] > 1 or block in self._digest_of

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that blocks are conserved: every one free, idle, or used as often as the tables say."""
        uses = [0] * self.num_blocks
        for table in tables:
            for block in table:
                uses[block] += 1
        assert uses == self._references
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free)
        assert not free & idle
        used = {block for block, count in enumerate(uses) if count}
        assert free | idle | used == set(range(self.num_blocks))
        assert not (free | idle) & used
        assert idle <= set(self._digest_of)
        assert not free & set(self._digest_of)
        assert {digest: block for block, digest in self._digest_of.items()} == self._block_of


class PrefixDigests:
    """Names the content of blocks, per tenant."""

    def __init__(self) -> None:
        self._salts: dict[str, bytes] = {}

    def root(self, tenant: str) -> bytes:
        """The digest before the first block: the tenant's secret of this process."""
        if tenant not in self._salts:
            self._salts[tenant] = secrets.token_bytes(_SALT_BYTES)
        return self._salts[tenant]

    @staticmethod
    def following(before: bytes, ids: Sequence[int]) -> bytes:
        """The digest of a block with these ids, behind the blocks that ``before`` names."""
        data = np.asarray(ids, dtype="<u4").tobytes()
        return hashlib.blake2b(data, key=before, digest_size=_DIGEST_BYTES).digest()
