"""One sequence of the batching engine: its ids, how much of it the KV cache holds, and what to do with its logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from cloud_service.engine.job import JobEnd
from cloud_service.engine.kv_blocks import BLOCK_TOKENS

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the model said of the last positions of a sequence."""

    greedy_ids: tuple[int, ...] = field(repr=False)  # the likeliest of each, the lowest on ties
    logits: Logits | None = field(repr=False)  # (rows, vocabulary); None: its program reads none

    def __add__(self, later: Rows) -> Rows:
        """These, and behind them those of a later step."""
        logits = None
        if self.logits is not None and later.logits is not None:
            logits = np.concatenate([self.logits, later.logits])
        return Rows(self.greedy_ids + later.greedy_ids, logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A further sequence that a program wants run: the ids so far, and these behind them."""

    ids: tuple[int, ...] = field(repr=False)
    num_rows: int
    program: Program


class Program(Protocol):
    """Decides how a sequence goes on; runs on the engine's thread."""

    @property
    def reads_logits(self) -> bool:
        """Whether it looks at more than the likeliest ids; the same for as long as a sequence has work."""

    def on_rows(self, rows: Rows) -> tuple[int, ...] | tuple[Branch, ...] | JobEnd | None:
        """All ids are computed and here are the rows that were wanted.

        Returns:
            Ids to append (one row of the last is wanted next), branches to run while this sequence ends without a word,
            the end of it, or None: it is kept for later.
        """

    def on_end(self, end: JobEnd) -> None:
        """The sequence was ended by its program or from outside; called at most once, last."""


@dataclass(eq=False, slots=True, kw_only=True)
class Owner:
    """What all sequences of one request share: whose it is, until when, and what it took."""

    tenant: str
    deadline_s: float  # on the clock of time.monotonic
    arrived_s: float
    is_wanted: bool = True  # False: its caller hung up
    first_step_s: float | None = None
    compute_s: float = 0.0
    num_steps: int = 0
    num_expected: int = 0  # tokens of the answer that are still to come, as far as can be told
    cached_tokens: int | None = None  # found in the prefix cache, of the first sequence


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """Mutable; owned by the engine's thread."""

    owner: Owner
    number: int  # of arrival
    ids: list[int] = field(repr=False)
    num_rows: int  # logits wanted once all ids are computed, of the last so many positions
    program: Program = field(repr=False)
    stage_start: int = 0  # the first layer that runs here; the device has run those before
    hidden: torch.Tensor | None = field(
        default=None, repr=False
    )  # (missing, width) of a later stage
    is_lost: bool = False  # a later stage whose memory went to others: its hidden states are gone
    num_computed: int = 0  # positions that the KV cache holds
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list, repr=False)  # of its full, computed blocks
    is_admitted: bool = False  # it holds a slot; False: it has no blocks
    is_parked: bool = False  # it has no work and only keeps its place
    is_running: bool = False  # a step is planned with it and not yet done: nobody else touches it
    rows: Rows | None = field(default=None, repr=False)  # wanted ones, of earlier steps

    @property
    def is_tail(self) -> bool:
        """Whether it gets hidden states, not ids: then nothing of it is known by content."""
        return self.stage_start > 0

    @property
    def num_missing(self) -> int:
        """Positions still to be computed."""
        return len(self.ids) - self.num_computed

    def wanted_of(self, num_tokens: int) -> int:
        """How many of the next ``num_tokens`` positions have wanted rows; they are the last ones."""
        return max(
            0, min(self.num_computed + num_tokens - len(self.ids) + self.num_rows, num_tokens)
        )

    def blocks_for(self, length: int) -> int:
        """How many more blocks it needs to hold ``length`` positions."""
        return max(0, -(-length // BLOCK_TOKENS) - len(self.blocks))
