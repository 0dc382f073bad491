"""Finds a model's outlier channels by running a short text through it; the result is kept beside the built stages."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from partition.errors import ModelFileError
from partition.stages.embedding import TokenEmbedding, write_embedding
from partition.stages.smoothing import Smoothing
from partition.stages.stage_range import Precision, StageRange
from partition.task import Message, Role
from partition.weights.weight_source import WeightSource

logger = logging.getLogger(__name__)

# Which channels are large hardly depends on the text (2402.17762); this one has chat turns, prose, numbers and other scripts.
_TURNS: Final = (
    (Role.SYSTEM, "You are a helpful assistant. You read reports and answer with one word."),
    (
        Role.USER,
        """Findings: The heart is normal in size. The mediastinum is unremarkable. There is a 3.5 x 2.1 cm opacity in the
right lower lobe, compatible with pneumonia. No pleural effusion or pneumothorax.

Is this chest X-ray normal or abnormal?""",
    ),
    (Role.ASSISTANT, "abnormal"),
    (
        Role.USER,
        """Gold settled at $1,322.90 an ounce on Friday, up 0.4%, as the dollar fell; analysts expect further gains.
O paciente foi avaliado no dia 12 de março e não apresentou queixas. 胸部X光片未见明显异常。
def area(r):
    return 3.14159 * r ** 2""",
    ),
)
_RANDOM_TOKENS: Final = 192  # for a model without a tokenizer


def survey_channels(source: WeightSource, cache_dir: Path, weights_sha256: str) -> Smoothing:
    """Look up or measure the largest activation of each channel at each point of the whole model.

    Raises:
        ModelFileError: A weight is missing or of the wrong shape.
        OSError: The cache folder cannot be written.
    """
    path = cache_dir / "channels" / f"{weights_sha256}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Smoothing({name: stored[name] for name in stored.files})
    except FileNotFoundError:
        logger.info("surveying the channels of %s", weights_sha256[:12])
    except (OSError, ValueError):
        logger.warning("%s is damaged and will be made again", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix="surveying-"))
    try:
        largest = _measure(source, folder)
        with (folder / "channels.npz").open("wb") as stream:
            np.savez(stream, **largest)  # type: ignore[arg-type]  # the stub has no keyword arrays
        (folder / "channels.npz").replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Smoothing(largest)


def _measure(source: WeightSource, folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    import onnx
    import onnxruntime

    from partition.stages.graph import build_graph
    from partition.stages.tensor_file import TensorFileWriter

    spec = source.spec
    stage = StageRange(start=0, end=spec.num_layers, num_layers=spec.num_layers)
    ids = _survey_ids(source)
    with TensorFileWriter(folder / "weights.bin") as weights:
        # 8 bits, unsmoothed: rough, but magnitudes are all that is wanted, in a quarter of the memory.
        model = build_graph(
            source,
            stage,
            precision=Precision.INT8,
            context_tokens=len(ids),
            weights=weights,
            observe=True,
        )
    onnx.save_model(model, folder / "graph.onnx")
    write_embedding(source, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / "graph.onnx", options, providers=["CPUExecutionProvider"]
    )
    hidden = TokenEmbedding(folder, factor=spec.embedding_scale).look_up(ids)
    empty = np.zeros((1, spec.num_kv_heads, len(ids), spec.head_dim), np.float32)
    inputs = {
        "hidden": hidden[None],
        "last_position": np.array([len(ids) - 1], np.int32),
        "total_length": np.array(len(ids), np.int32),
        "rows": np.arange(len(ids)),
    }
    for layer in range(spec.num_layers):
        inputs |= {f"key.{layer}": empty, f"value.{layer}": empty}
    fixed = ("logits", "features", "present_")
    names = [output.name for output in session.get_outputs() if not output.name.startswith(fixed)]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _survey_ids(source: WeightSource) -> npt.NDArray[np.int32]:
    from partition.text.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.open(source.path)
        messages = [Message(role=role, text=text) for role, text in _TURNS]
        ids = tokenizer.encode(tokenizer.chat.render(messages), with_specials=True)
        return np.array(ids, np.int32) % source.spec.vocab_size
    except ModelFileError:
        rng = np.random.default_rng(0)
        return rng.integers(0, source.spec.vocab_size, _RANDOM_TOKENS).astype(np.int32)
