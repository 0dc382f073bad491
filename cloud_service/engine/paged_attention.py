"""Ragged attention over a paged KV cache, plugged into transformers' attention interface.

One step of the engine runs the positions of many sequences as one row of tokens: linear layers see no padding at all. In
attention each sequence sees its own blocks only; sequences with equally many new positions and similar lengths share one
call, gathered block by block. The heads of a group are folded into the query axis, so that keys are never repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from cloud_service.engine.kv_blocks import BLOCK_TOKENS

ATTENTION_NAME: Final = "tandem_paged"
STEP_ARGUMENT: Final = "tandem_step"  # under which a step travels through the module
WASTE_RATIO: Final = 1.25  # padded to real blocks of one call, at most


class PagedMemory:
    """The KV cache: ``(layers, blocks, 2, BLOCK_TOKENS, kv_heads, head_dim)``, keys before values."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zeros and not whatever memory holds: masked positions have weight 0, but 0 times NaN is NaN.
        shape = (num_layers, num_blocks, 2, BLOCK_TOKENS, num_kv_heads, head_dim)
        if device.type == "cpu":
            # numpy's zeros take no memory until they are written; PyTorch's are written at once.
            pages = torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8))
            self.data = pages.view(dtype).view(shape)
        else:
            self.data = torch.zeros(shape, dtype=dtype, device=device)

    @staticmethod
    def block_bytes(
        *, num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        """Bytes of one block over all layers."""
        return num_layers * 2 * BLOCK_TOKENS * num_kv_heads * head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class Span:
    """New positions ``[start, start + length)`` of one sequence in one step, and its blocks."""

    start: int
    length: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """Spans of equal length that share one call of the attention kernel."""

    rows: torch.Tensor  # (spans * length,) of the step's tokens
    blocks: torch.Tensor  # (spans, most_blocks), padded with any block
    starts: torch.Tensor  # (spans,)
    length: int
    masks: dict[int, torch.Tensor] = field(default_factory=dict)  # by sliding window; 0: none

    def mask(self, window: int, groups: int) -> torch.Tensor:
        """What each query may see, ``(spans, 1, groups * length, keys)``; True is visible."""
        if window not in self.masks:
            device = self.starts.device
            keys = torch.arange(self.blocks.shape[1] * BLOCK_TOKENS, device=device)
            places = self.starts[:, None] + torch.arange(self.length, device=device)
            visible = keys <= places[..., None]
            if window:
                visible &= keys > places[..., None] - window
            self.masks[window] = visible[:, None].repeat(1, 1, groups, 1)
        return self.masks[window]


class AttentionStep:
    """Where the positions of one step are written, and what each of them sees."""

    def __init__(self, memory: PagedMemory, spans: Sequence[Span]) -> None:
        device = memory.data.device
        self._memory = memory
        blocks: list[int] = []
        offsets: list[int] = []
        positions: list[int] = []
        rows: list[int] = []  # the first row of each span
        for span in spans:
            rows.append(len(positions))
            for position in range(span.start, span.start + span.length):
                positions.append(position)
                blocks.append(span.blocks[position // BLOCK_TOKENS])
                offsets.append(position % BLOCK_TOKENS)
        self.positions = torch.tensor(positions, device=device)
        self._blocks = torch.tensor(blocks, device=device)
        self._offsets = torch.tensor(offsets, device=device)
        self._calls = [
            _make_call([spans[at] for at in group], [rows[at] for at in group], device)
            for group in _group(spans)
        ]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        window: int,
    ) -> torch.Tensor:
        """Store keys and values of the step, then attend.

        Args:
            layer: Which.
            query: ``(1, heads, tokens, head_dim)``.
            key: ``(1, kv_heads, tokens, head_dim)``.
            value: As ``key``.
            scaling: Of the scores; None: by the root of ``head_dim``.
            window: Positions a query sees, itself included; 0: all.

        Returns:
            ``(1, tokens, heads, head_dim)``.
        """
        cache = self._memory.data[layer]
        cache[self._blocks, 0, self._offsets] = key[0].transpose(0, 1)
        cache[self._blocks, 1, self._offsets] = value[0].transpose(0, 1)
        _, heads, _, head_dim = query.shape
        kv_heads = key.shape[1]
        groups = heads // kv_heads
        by_token = query[0].transpose(0, 1)  # (tokens, heads, head_dim)
        output = torch.empty_like(by_token, memory_format=torch.contiguous_format)
        for call in self._calls:
            count, most_blocks = call.blocks.shape
            gathered = cache.index_select(0, call.blocks.view(-1))
            gathered = gathered.view(count, most_blocks, 2, BLOCK_TOKENS, kv_heads, head_dim)
            both = gathered.permute(2, 0, 4, 1, 3, 5).reshape(
                2, count, kv_heads, most_blocks * BLOCK_TOKENS, head_dim
            )
            queries = by_token[call.rows].view(count, call.length, kv_heads, groups, head_dim)
            queries = queries.permute(0, 2, 3, 1, 4).reshape(
                count, kv_heads, groups * call.length, head_dim
            )
            mask = call.mask(window, groups)
            result = scaled_dot_product_attention(
                queries, both[0], both[1], attn_mask=mask, scale=scaling
            )
            result = result.view(count, kv_heads, groups, call.length, head_dim)
            output[call.rows] = result.permute(0, 3, 1, 2, 4).reshape(-1, heads, head_dim)
        return output[None]


def install_paged_attention(module: Any) -> None:
    """Make a transformers model attend through the step that is given to its ``forward``."""
    AttentionInterface.register(ATTENTION_NAME, _attend)
    module.set_attn_implementation(ATTENTION_NAME)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """See :data:`transformers.AttentionInterface`; the mask is ours, theirs is None for a name it does not know."""
    if softcap is not None:
        raise ValueError(
            "attention with soft-capped scores is not supported; use the serial engine"
        )
    step: AttentionStep = arguments[STEP_ARGUMENT]
    output = step.attend(
        module.layer_idx, query, key, value, scaling=scaling, window=sliding_window or 0
    )
    return output, None


def _group(spans: Sequence[Span]) -> list[list[int]]:
    """Divide spans into calls: equal length, and blocks so alike that little of a call is padding."""

    def num_blocks(at: int) -> int:
        return -(-(spans[at].start + spans[at].length) // BLOCK_TOKENS)

    def by_length(at: int) -> int:
        return spans[at].length

    groups: list[list[int]] = []
    order = sorted(range(len(spans)), key=lambda at: (spans[at].length, num_blocks(at)))
    for _, alike in groupby(order, key=by_length):
        group: list[int] = []
        real = 0
        for at in alike:
            padded = num_blocks(at) * (len(group) + 1)
            # A call costs about as much as gathering a few blocks, so small differences are not worth one.
            if group and padded > WASTE_RATIO * (real + num_blocks(at)) + 8:
                groups.append(group)
                group, real = [], 0
            group.append(at)
            real += num_blocks(at)
        groups.append(group)
    return groups


def _make_call(spans: Sequence[Span], rows: Sequence[int], device: torch.device) -> _Call:
    length = spans[0].length
    counts = [-(-(span.start + length) // BLOCK_TOKENS) for span in spans]
    most = max(counts)
    table = [
        [*span.blocks[:count], *([span.blocks[0]] * (most - count))]
        for span, count in zip(spans, counts, strict=True)
    ]
    return _Call(
        rows=torch.tensor([row + at for row in rows for at in range(length)], device=device),
        blocks=torch.tensor(table, device=device),
        starts=torch.tensor([span.start for span in spans], device=device),
        length=length,
    )
