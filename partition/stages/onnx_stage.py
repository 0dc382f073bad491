"""A stage that ONNX Runtime computes; the device's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from partition.errors import (
    ContextLengthError,
    MemoryLimitError,
    ModelFileError,
    NeedPrefillError,
)
from partition.stages.branches import Branches
from partition.stages.cache_rows import CacheRows
from partition.stages.embedding import TokenEmbedding
from partition.stages.kv_cache import KVCache
from partition.stages.overflow import products_overflow
from partition.stages.stage import Floats, StageOutput
from partition.stages.stage_files import StageFiles, build_stage_files
from partition.stages.stage_range import Precision, StageRange
from partition.weights.spec import ModelSpec
from partition.weights.weight_source import WeightSource

_CHUNK_TOKENS: Final = (
    256  # positions of one run, so that a long prompt needs no more workspace than a short one
)
_RUNTIME_BYTES: Final = 64 << 20  # ONNX Runtime itself and its arenas, measured on x86-64 Linux


class OnnxStage:
    """Layers ``[start, end)`` on ONNX Runtime; implements :class:`partition.stages.stage.BranchingStage`. Not thread-safe."""

    def __init__(
        self,
        spec: ModelSpec,
        stage: StageRange,
        files: StageFiles,
        *,
        threads: int,
        context_tokens: int,
    ) -> None:
        """Load the files of a built stage; see :meth:`open` for the arguments and errors."""
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

        self.spec = spec
        self.stage = stage
        self.fingerprint = files.fingerprint
        self.context_tokens = context_tokens
        self.num_sessions = 1  # of full length, for which the memory limit has room
        self._caches: dict[str, KVCache] = {}
        self._rows = CacheRows(spec, stage, max_tokens=context_tokens)
        self._outputs = ("logits", "features") if stage.has_head else ("hidden_out",)
        self._embedding: TokenEmbedding | None = None
        if stage.has_embedding:
            self._embedding = TokenEmbedding(files.folder, factor=spec.embedding_scale)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; its warnings name nodes, not causes
        options.enable_mem_pattern = False  # every prompt has another length
        if products_overflow():
            # Unsigned weights, whose products are added in 32 bits. Elsewhere they would only be slower, half as fast with AMX.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                files.graph, options, providers=["CPUExecutionProvider"]
            )
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise ModelFileError(
                f"{files.folder}: ONNX Runtime refuses the graph; delete the folder, it will be built again"
            ) from error

    @classmethod
    def open(
        cls,
        source: WeightSource,
        stage: StageRange | None = None,
        *,
        precision: Precision,
        threads: int,
        context_tokens: int,
        cache_dir: Path,
        max_memory_bytes: int | None = None,
        num_sessions: int = 1,
        max_sessions: int | None = None,
    ) -> OnnxStage:
        """Build or find a stage, and load it.

        Args:
            source: The model's weights.
            stage: Which layers; None: all.
            precision: What to compute in.
            threads: Threads ONNX Runtime may use.
            context_tokens: Longest session, in positions; at most what the model was trained for.
            cache_dir: Where built stages are kept.
            max_memory_bytes: Refuse to load what would need more.
            num_sessions: How many sessions of full length count towards it.
            max_sessions: How many more would be of use: :attr:`num_sessions` says for how many there is room; None: no more.

        Raises:
            ModelFileError: The weights are damaged, or the cache cannot be written.
            MemoryLimitError: It would need more than ``max_memory_bytes``.
        """
        spec = source.spec
        stage = stage or StageRange(start=0, end=spec.num_layers, num_layers=spec.num_layers)
        files = build_stage_files(source, stage, precision=precision, cache_dir=cache_dir)
        context_tokens = min(context_tokens, files.context_tokens)
        session_bytes = spec.kv_bytes_per_token(stage.count, 4) * context_tokens
        needed = _needed_bytes(spec, stage, files, context_tokens) + num_sessions * session_bytes
        if max_memory_bytes is not None and needed > max_memory_bytes:
            raise MemoryLimitError(
                f"the model with {context_tokens} tokens of context needs {needed >> 20} MB and {max_memory_bytes >> 20} MB are allowed; "
                "raise max_memory_mb, shorten the context or choose a smaller model"
            )
        opened = cls(spec, stage, files, threads=threads, context_tokens=context_tokens)
        opened.num_sessions = max(num_sessions, max_sessions or 0)
        if max_memory_bytes is not None:
            room = num_sessions + (max_memory_bytes - needed) // session_bytes
            opened.num_sessions = min(opened.num_sessions, room)
        return opened

    def extend(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        """See :class:`partition.stages.stage.Stage`."""
        cache = self._cache(session, base_len, len(inputs))
        return self._in_chunks(cache, inputs, rows, None)

    @property
    def max_branched_tokens(self) -> int:
        """See :class:`partition.stages.stage.BranchingStage`."""
        # A window is counted in cached positions, of which branches have more than a path has.
        window = self.spec.sliding_window
        return self.context_tokens if window is None else min(self.context_tokens, window)

    def extend_branches(
        self,
        session: str,
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_len: int,
        parents: Sequence[int],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> StageOutput:
        """See :class:`partition.stages.stage.BranchingStage`."""
        if base_len < 1 or len(parents) != len(inputs):
            raise ValueError(
                "branches need a parent for each position and a cached beginning of one position at least"
            )
        if base_len + len(inputs) > self.max_branched_tokens:
            raise ContextLengthError(
                f"{base_len + len(inputs)} tokens of branches do not fit into {self.max_branched_tokens}; run fewer at once"
            )
        branches = Branches.of(parents, base_len=base_len)
        cache = self._cache(session, base_len, len(inputs))
        output = self._in_chunks(cache, inputs, rows, branches)
        cache.length = base_len + branches.first_path
        return output

    def extend_each(
        self,
        sessions: Sequence[str],
        inputs: npt.NDArray[np.int32] | Floats,
        *,
        base_lens: Sequence[int],
    ) -> StageOutput:
        """See :class:`partition.stages.stage.BranchingStage`."""
        if not 0 < len(set(sessions)) == len(sessions) == len(inputs) == len(base_lens):
            raise ValueError("each session is extended by one position, and by no second one")
        if min(base_lens) < 1:
            raise ValueError("a position of each of several sessions needs a cached one before it")
        if len(sessions) == 1:
            return self.extend(sessions[0], inputs, base_len=base_lens[0])
        for session, base_len in zip(sessions, base_lens, strict=True):
            self._check_room(base_len, 1)
            self._check_cached(session, base_len)
        for session, base_len in zip(sessions, base_lens, strict=True):
            self.rewind(session, base_len)
        rows = self._rows.seat(sessions, self._caches, self._session, self._outputs)
        hidden = self._embedded(inputs)
        arranged, lasts = np.empty_like(hidden), np.empty(len(rows), np.int32)
        arranged[rows], lasts[rows] = hidden, base_lens
        # One position of a row sees all of it, so there is no bias to tell branches apart.
        bias = np.zeros((1, 1, 1, int(lasts.max()) + 1), np.float32)
        positions = lasts.astype(np.int64)[:, None]
        output = self._run(self._rows.binding, arranged[:, None], lasts, rows, positions, bias)
        for session, base_len in zip(sessions, base_lens, strict=True):
            self._rows.lengths[session] = base_len + 1
        if output.hidden is not None:
            return StageOutput(hidden=output.hidden[rows, 0])
        return output

    def fork(self, session: str, new: str, length: int) -> None:
        """See :class:`partition.stages.stage.BranchingStage`."""
        self._check_cached(session, length)
        if session == new:
            self.rewind(session, length)
            return
        self.forget(new)
        if length < 1:
            return
        cache = self._caches[new] = self._empty_cache()
        if session in self._rows.lengths:
            cache.fill(lambda name: self._rows.part(session, name), length)
        else:
            cache.fill(self._caches[session].part, length)

    def rewind(self, session: str, length: int) -> None:
        """See :class:`partition.stages.stage.Stage`."""
        self._check_cached(session, length)
        if session in self._rows.lengths:
            self._rows.lengths[session] = length
        elif session in self._caches:
            self._caches[session].length = length

    def length(self, session: str) -> int:
        """See :class:`partition.stages.stage.Stage`."""
        if session in self._rows.lengths:
            return self._rows.lengths[session]
        cache = self._caches.get(session)
        return 0 if cache is None else cache.length

    def forget(self, session: str) -> None:
        """See :class:`partition.stages.stage.Stage`."""
        self._caches.pop(session, None)
        if session in self._rows.lengths:
            self._rows.drop(session)

    def close(self) -> None:
        """See :class:`partition.stages.stage.Stage`."""
        self._caches.clear()
        self._rows.clear()
        self._session = None
        if self._embedding is not None:
            self._embedding.close()
        self._embedding = None

    def _cache(self, session: str, base_len: int, num_new: int) -> KVCache:
        if num_new < 1:
            raise ValueError("a stage is extended by one position at least")
        self._check_room(base_len, num_new)
        self.rewind(session, base_len)
        if session in self._rows.lengths:
            self._caches[session] = self._rows.leave(session)
        cache = self._caches.get(session)
        if cache is None:
            cache = self._caches[session] = self._empty_cache()
        cache.reserve(base_len + num_new, self._session, self._outputs)
        return cache

    def _empty_cache(self) -> KVCache:
        return KVCache(self.spec, self.stage, max_tokens=self.context_tokens)

    def _check_cached(self, session: str, length: int) -> None:
        cached = self.length(session)
        if length > cached:
            raise NeedPrefillError(
                f"{cached} positions are cached and {length} were expected; send the prompt again"
            )

    def _check_room(self, base_len: int, num_new: int) -> None:
        if base_len + num_new > self.context_tokens:
            raise ContextLengthError(
                f"{base_len + num_new} tokens do not fit into the context of {self.context_tokens}; shorten the input"
            )

    def _in_chunks(
        self,
        cache: KVCache,
        inputs: npt.NDArray[np.int32] | Floats,
        rows: npt.NDArray[np.int64] | None,
        branches: Branches | None,
    ) -> StageOutput:
        num_new = len(inputs)
        if rows is None:
            rows = np.array([num_new - 1], np.int64)
        outputs = []
        for start in range(0, num_new, _CHUNK_TOKENS):
            end = min(start + _CHUNK_TOKENS, num_new)
            piece = rows[(rows >= start) & (rows < end)] - start
            if branches is None:
                positions = np.arange(cache.length, cache.length + end - start)[None]
                bias = np.zeros((1, 1, end - start, cache.length + end - start), np.float32)
            else:
                positions, bias = branches.positions(start, end), branches.bias(start, end)
            total = bias.shape[-1]
            lasts = np.array([total - 1], np.int32)
            hidden = self._embedded(inputs[start:end])[None]
            output = self._run(cache.binding, hidden, lasts, piece, positions, bias)
            cache.length = total
            if output.hidden is not None:
                output = StageOutput(hidden=output.hidden[0])
            outputs.append(output)
        return _joined(outputs)

    def _run(
        self,
        binding: Any,
        hidden: Floats,
        lasts: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        bias: Floats,
    ) -> StageOutput:
        """Run the graph; its inputs are described in :mod:`partition.stages.graph`."""
        binding.bind_cpu_input("hidden", hidden)
        binding.bind_cpu_input("last_position", lasts)
        binding.bind_cpu_input("total_length", np.array(bias.shape[-1], np.int32))
        binding.bind_cpu_input("positions", positions)
        binding.bind_cpu_input("bias", bias)
        if self.stage.has_head:
            # ONNX Runtime 1.31 gives the maximum over an axis of no rows a wrong shape, so one row is always run.
            binding.bind_cpu_input("rows", rows if len(rows) else np.zeros(1, np.int64))
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        results = binding.get_outputs()
        if self.stage.has_head:
            count = len(rows)
            return StageOutput(
                logits=results[0].numpy()[:count], features=results[1].numpy()[:count]
            )
        return StageOutput(hidden=results[0].numpy())

    def _embedded(self, inputs: npt.NDArray[np.int32] | Floats) -> Floats:
        if self._embedding is None:
            return np.ascontiguousarray(inputs, np.float32)
        if np.any(inputs < 0) or np.any(inputs >= self._embedding.vocab_size):
            raise ValueError("a token id lies outside the vocabulary")
        return self._embedding.look_up(np.asarray(inputs, np.int32))


def _needed_bytes(
    spec: ModelSpec, stage: StageRange, files: StageFiles, context_tokens: int
) -> int:
    # The widest intermediate results of a chunk: gate, up and their product; scores of one layer.
    widest = 6 * spec.intermediate_size + spec.num_heads * min(context_tokens, 4096)
    # With what attention adds to them.
    workspace = 4 * _CHUNK_TOKENS * (widest + context_tokens) + (
        8 * spec.vocab_size if stage.has_head else 0
    )
    return files.weights_bytes + workspace + _RUNTIME_BYTES


def _joined(outputs: list[StageOutput]) -> StageOutput:
    if len(outputs) == 1:
        return outputs[0]

    def join(parts: list[Floats | None]) -> Floats | None:
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if known else None

    return StageOutput(
        hidden=join([output.hidden for output in outputs]),
        logits=join([output.logits for output in outputs]),
        features=join([output.features for output in outputs]),
    )
