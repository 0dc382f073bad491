"""Ragged attention over a paged KV cache, plugged into transformers' attention interface.

One step of the engine runs the positions of many sequences as one row of tokens: linear layers see no padding at all. In
attention each sequence sees its own blocks only; sequences with equally many new positions and similar lengths share one
call, gathered block by block, and their tokens stand side by side in the row. The heads of a group are folded into the query
axis, so that keys are never repeated, and what is gathered is read where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    """The KV cache: ``(layers, 2, blocks, BLOCK_TOKENS, kv_heads, head_dim)``, keys before values.

    Blocks that are gathered one behind the other are then keys in a row: attention reads them without another copy.
    """

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
        shape = (num_layers, 2, num_blocks, BLOCK_TOKENS, num_kv_heads, head_dim)
        if device.type == "cpu":
            # numpy's zeros take no memory until they are written; PyTorch's are written at once.
            pages = torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8))
            self.data = pages.view(dtype).view(shape)
        else:
            self.data = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def num_blocks(self) -> int:
        """How many there are."""
        return self.data.shape[2]

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

    @property
    def num_blocks(self) -> int:
        """Blocks that its last position sees."""
        return -(-(self.start + self.length) // BLOCK_TOKENS)


def arrange(spans: Sequence[Span]) -> list[list[int]]:
    """Divide spans into calls: equal length, and blocks so alike that little of a call is padding.

    Returns:
        The places of the spans of each call. Their tokens must stand in the step's row in this order.
    """

    def by_length(at: int) -> int:
        return spans[at].length

    calls: list[list[int]] = []
    order = sorted(range(len(spans)), key=lambda at: (spans[at].length, spans[at].num_blocks))
    for _, alike in groupby(order, key=by_length):
        call: list[int] = []
        real = 0
        for at in alike:
            num_blocks = spans[at].num_blocks
            padded = num_blocks * (len(call) + 1)
            # A call costs about as much as gathering a few blocks, so small differences are not worth one.
            if call and padded > WASTE_RATIO * (real + num_blocks) + 8:
                calls.append(call)
                call, real = [], 0
            call.append(at)
            real += num_blocks
        calls.append(call)
    return calls


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """Spans of equal length that share one call of the attention kernel."""

    rows: slice  # of the step's tokens
    blocks: torch.Tensor  # (spans * most_blocks,), padded with any block
    starts: torch.Tensor  # (spans,)
    length: int
    masks: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """What each query may see, added to its scores: ``(spans, 1, groups * length, keys)``; the same in every layer."""
        if (window, groups) not in self.masks:
            device, count = self.starts.device, len(self.starts)
            keys = torch.arange(len(self.blocks) // count * BLOCK_TOKENS, device=device)
            places = self.starts[:, None] + torch.arange(self.length, device=device)
            visible = keys <= places[..., None]
            if window:
                visible &= keys > places[..., None] - window
            hidden = torch.zeros(visible.shape, dtype=dtype, device=device)
            hidden.masked_fill_(~visible, -math.inf)
            self.masks[window, groups] = hidden[:, None].repeat(1, 1, groups, 1)
        return self.masks[window, groups]


class AttentionStep:
    """Where the positions of one step are written, and what each of them sees."""

    def __init__(
        self,
        memory: PagedMemory,
        calls: Sequence[Sequence[Span]],
        indices: Sequence[torch.Tensor],
        on_layer: Callable[[], None],
    ) -> None:
        """Make one.

        Args:
            memory: The KV cache.
            calls: Spans as :func:`arrange` has divided them; the step's tokens stand in this order.
            indices: What :meth:`indices_of` says of these calls, on the memory's device.
            on_layer: Called in each layer before its attention; may run another step, of other sequences.
        """
        self._memory = memory
        self._on_layer = on_layer
        self.positions, self._slots, *of_calls = indices
        self._calls: list[_Call] = []
        row = 0
        for spans, blocks, starts in zip(calls, of_calls[::2], of_calls[1::2], strict=True):
            length = spans[0].length
            rows = slice(row, row + len(spans) * length)
            self._calls.append(_Call(rows, blocks, starts, length))
            row = rows.stop

    @staticmethod
    def indices_of(calls: Sequence[Sequence[Span]]) -> list[list[int]]:
        """The indices that a step needs on the device: positions, slots, and blocks and starts of each call."""
        positions: list[int] = []
        slots: list[int] = []
        of_calls: list[list[int]] = []
        for spans in calls:
            most = max(span.num_blocks for span in spans)
            blocks: list[int] = []
            for span in spans:
                places = range(span.start, span.start + span.length)
                positions += places
                slots += (
                    span.blocks[place // BLOCK_TOKENS] * BLOCK_TOKENS + place % BLOCK_TOKENS
                    for place in places
                )
                blocks += span.blocks[: span.num_blocks]
                blocks += [span.blocks[0]] * (most - span.num_blocks)
            of_calls += [blocks, [span.start for span in spans]]
        return [positions, slots, *of_calls]

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
        self._on_layer()
        _, heads, num_tokens, head_dim = query.shape
        kv_heads = key.shape[1]
        groups = heads // kv_heads
        caches = self._memory.data[layer]  # (2, blocks, BLOCK_TOKENS, kv_heads, head_dim)
        for cache, new in zip(caches, (key, value), strict=True):
            cache.view(-1, kv_heads, head_dim).index_copy_(0, self._slots, new[0].transpose(0, 1))
        by_token = query[0].transpose(0, 1)  # (tokens, heads, head_dim)
        output = by_token.new_empty(num_tokens, heads, head_dim)
        for call in self._calls:
            count, length = len(call.starts), call.length
            keys, values = (
                cache.index_select(0, call.blocks)
                .view(count, -1, kv_heads, head_dim)
                .transpose(1, 2)
                for cache in caches
            )
            queries = by_token[call.rows].reshape(count, length, kv_heads, groups, head_dim)
            result = scaled_dot_product_attention(
                queries.permute(0, 2, 3, 1, 4).reshape(count, kv_heads, groups * length, head_dim),
                keys,
                values,
                attn_mask=call.mask(window, groups, query.dtype),
                scale=scaling,
            )
            result = result.view(count, kv_heads, groups, length, head_dim)
            place = output[call.rows].view(count, length, kv_heads, groups, head_dim)
            place.copy_(result.permute(0, 3, 1, 2, 4))
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
