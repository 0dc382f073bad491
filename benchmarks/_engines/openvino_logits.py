"""What OpenVINO says to every position of a text: the model that its GenAI pipeline makes of a GGUF file, saved and run as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_THREADS = 2


class OpenVinoLogits:
    """A model that gives the logits of all positions; needs openvino-genai."""

    def __init__(self, model: Path, cache_dir: Path) -> None:
        """Make the model, or find it; ``RuntimeError`` where the pipeline cannot read the file."""
        import openvino
        import openvino_genai

        self._version = f"openvino-genai {openvino_genai.__version__}"
        folder = cache_dir / f"openvino-genai-{model.stem}"
        saved = folder / "openvino_model.xml"
        if not saved.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / model.name  # it writes what it made beside the file it read
            link.unlink(missing_ok=True)
            link.symlink_to(model)
            openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        compiled = openvino.Core().compile_model(
            saved, "CPU", {"INFERENCE_NUM_THREADS": _THREADS, "PERFORMANCE_HINT": "LATENCY"}
        )
        self._request: Any = compiled.create_infer_request()

    def version(self) -> str:
        return self._version

    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """``(len(ids), vocab_size)``."""
        self._request.reset_state()
        count = len(ids)
        self._request.infer(
            {
                "input_ids": ids[None].astype(np.int64),
                "attention_mask": np.ones((1, count), np.int64),
                "position_ids": np.arange(count)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        found: npt.NDArray[np.float32] = self._request.get_tensor("logits").data[0].copy()
        return found
