"""One pass of the model over what a step runs: indices to the device in one copy, what programs look at back in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cloud_service.engine.kv_blocks import BLOCK_TOKENS
from cloud_service.engine.packed_linear import pack_linears
from cloud_service.engine.paged_attention import (
    STEP_ARGUMENT,
    AttentionStep,
    PagedMemory,
    Span,
    arrange,
    install_paged_attention,
)
from cloud_service.engine.scheduler import Share
from cloud_service.engine.sequence import Rows
from cloud_service.engine.tail import tail_of


class ForwardPass:
    """A model and its KV cache. Not thread-safe."""

    def __init__(self, module: Any, kv_bytes: int) -> None:
        """Take over a module: its attention and, where that pays, its linear layers are replaced.

        Args:
            module: A transformers causal language model, in evaluation mode.
            kv_bytes: Of the cache, at most.

        Raises:
            MemoryError: ``kv_bytes`` does not hold one block.
        """
        install_paged_attention(module)
        pack_linears(module)
        self._memory = _make_memory(module, kv_bytes)
        self._stages: dict[int, Any] = {0: module}  # by first layer; they share all weights

    @property
    def num_blocks(self) -> int:
        """Of the cache."""
        return self._memory.num_blocks

    def run(
        self, shares: Sequence[Share], on_layer: Callable[[], None] = lambda: None
    ) -> list[Rows]:
        """Compute shares of sequences that begin at the same layer; what each of them wanted, in their order.

        Args:
            shares: Their blocks are allocated.
            on_layer: Called in each layer; may run other sequences' shares before this goes on.

        Raises:
            RuntimeError: Memory is short, or the model does what the interface does not foresee; so may others of PyTorch's be.
        """
        spans = [
            Span(share.sequence.num_computed, share.num_tokens, share.sequence.blocks)
            for share in shares
        ]
        calls = arrange(spans)
        order = [at for call in calls for at in call]
        ids: list[int] = []
        wanted: list[int] = []  # rows of the step, and of them
        looked_at: list[int] = []  # those whose logits a program reads
        for share in (shares[at] for at in order):
            sequence = share.sequence
            start = sequence.num_computed
            ids += sequence.ids[start : start + share.num_tokens]
            num_wanted = sequence.wanted_of(share.num_tokens)
            if sequence.program.reads_logits:
                looked_at += range(len(wanted), len(wanted) + num_wanted)
            wanted += range(len(ids) - num_wanted, len(ids))
        in_calls = [[spans[at] for at in call] for call in calls]
        indices = self._send(ids, wanted, looked_at, *AttentionStep.indices_of(in_calls))
        ids_there, wanted_there, looked_at_there, *rest = indices
        step = AttentionStep(self._memory, in_calls, rest, on_layer)
        stage_start = shares[0].sequence.stage_start
        if stage_start:
            inputs = {"inputs_embeds": self._hidden([shares[at] for at in order])}
        else:
            inputs = {"input_ids": ids_there[None]}
        output = self._stage(stage_start)(
            **inputs,
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=wanted_there,
            **{STEP_ARGUMENT: step},
        )
        logits: torch.Tensor = output.logits[0]
        greedy_ids = logits.argmax(-1).tolist()
        read = logits[looked_at_there].float().cpu().numpy() if looked_at else None
        return _dealt(shares, order, greedy_ids, read)

    def _send(self, *lists: list[int]) -> tuple[torch.Tensor, ...]:
        """To the device in one copy, which the processor does not wait for."""
        device = self._memory.data.device
        together = torch.tensor([index for one in lists for index in one])
        if device.type == "cuda":
            together = together.pin_memory().to(device, non_blocking=True)
        pieces: tuple[torch.Tensor, ...] = together.split([len(one) for one in lists])
        return pieces

    def _hidden(self, shares: Sequence[Share]) -> torch.Tensor:
        pieces = [share.sequence.hidden[: share.num_tokens] for share in shares]  # type: ignore[index]
        return torch.cat(pieces)[None].to(self._memory.data.device, self._memory.data.dtype)

    def _stage(self, start: int) -> Any:
        if start not in self._stages:
            self._stages[start] = tail_of(self._stages[0], start)
        return self._stages[start]


def _dealt(
    shares: Sequence[Share],
    order: Sequence[int],
    greedy_ids: Sequence[int],
    read: np.ndarray[tuple[int, int], np.dtype[np.float32]] | None,
) -> list[Rows]:
    """Give each share its rows, from where they stand in the step to the order of the shares."""
    rows: list[Rows | None] = [None] * len(shares)
    row = read_row = 0
    for at in order:
        sequence = shares[at].sequence
        num_wanted = sequence.wanted_of(shares[at].num_tokens)
        logits = None
        if read is not None and sequence.program.reads_logits:
            logits = read[read_row : read_row + num_wanted]
            read_row += num_wanted
        rows[at] = Rows(tuple(greedy_ids[row : row + num_wanted]), logits)
        row += num_wanted
    return [one for one in rows if one is not None]


def _make_memory(module: Any, kv_bytes: int) -> PagedMemory:
    config = module.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    parameter = next(module.parameters())
    block_bytes = PagedMemory.block_bytes(
        num_layers=config.num_hidden_layers,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=parameter.dtype,
    )
    if kv_bytes < block_bytes:
        raise MemoryError(
            f"`engine.kv_bytes` holds no block of {BLOCK_TOKENS} positions; raise it to {block_bytes} at least"
        )
    return PagedMemory(
        num_layers=config.num_hidden_layers,
        num_blocks=kv_bytes // block_bytes,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=parameter.dtype,
        device=parameter.device,
    )
