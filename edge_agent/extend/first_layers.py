"""The first layers of the cloud's model, on this device: what a SPLIT needs here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partition.stages.onnx_stage import OnnxStage
    from partition.stages.stage_range import Precision
    from partition.text.tokenizer import Tokenizer


class FirstLayers:
    """Layers ``[0, k)`` with the model's tokenizer. One answer at a time: hold ``turn`` while using ``stage``."""

    def __init__(self, stage: OnnxStage, tokenizer: Tokenizer, *, fingerprint: str) -> None:
        """Put the parts together; :meth:`open` makes them."""
        self.stage = stage
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint  # of the file, as the cloud names its model
        self.turn = threading.Lock()

    @property
    def count(self) -> int:
        """Layers on the device, k."""
        return self.stage.stage.count

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        count: int,
        precision: Precision,
        threads: int,
        context_tokens: int,
        cache_dir: Path,
        max_memory_mb: int | None,
    ) -> FirstLayers:
        """Load the layers; the first time, build their graph into the cache.

        Args:
            path: The very file or folder that the cloud runs.
            count: How many layers, k.
            precision: What to compute in.
            threads: Threads they may use.
            context_tokens: Longest prompt and answer together.
            cache_dir: Where built graphs and known hashes are kept.
            max_memory_mb: Refuse layers that would need more; None: no limit.

        Raises:
            ConfigError: The model has no such cut.
            ModelFileError: The file is damaged, or the cache cannot be written.
            MemoryLimitError: They would need more than ``max_memory_mb``.
        """
        from edge_agent.errors import ConfigError
        from partition.stages.onnx_stage import OnnxStage
        from partition.stages.stage_range import StageRange
        from partition.text.tokenizer import Tokenizer
        from partition.weights.weight_source import file_fingerprint, open_weights

        source = open_weights(path)
        total = source.spec.num_layers
        if not 0 < count < total:
            raise ConfigError(
                f"split.layers = {count}: the model has {total}; give 1 to {total - 1}, so that either side has some"
            )
        stage = OnnxStage.open(
            source,
            StageRange(start=0, end=count, num_layers=total),
            precision=precision,
            threads=threads,
            context_tokens=context_tokens,
            cache_dir=cache_dir / "stages",
            max_memory_bytes=None if max_memory_mb is None else max_memory_mb << 20,
        )
        return cls(stage, Tokenizer.open(path), fingerprint=file_fingerprint(path, cache_dir))

    def close(self) -> None:
        """Free the memory, after the answer that uses it."""
        with self.turn:
            self.stage.close()
