"""What a split costs in bytes and in quality: every codec at several cuts, on held-out report texts.

``agreement`` is how often the next token is that of the unquantised split, ``divergence`` the mean of KL(exact || coded), both
over all positions of the texts. A codec is offered at a cut where the agreement is at least 99 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks._stage_chain import Floats, StageChain, texts
from benchmarks.line import Line, Options
from partition.extend.activations import Codec, decode, default_outliers, encode, row_bytes

MODEL = "smollm2-135m-instruct"


def run(options: Options) -> Iterator[Line]:
    """Measure."""
    with StageChain(MODEL, (1, 15, 29)) as chain:
        width = chain.spec.hidden_size
        codings = {
            "float16": (Codec.FLOAT16, 0),
            "int8": (Codec.INT8, default_outliers(Codec.INT8, width)),
            "int4": (Codec.INT4, default_outliers(Codec.INT4, width)),
        }
        path = options.data / "cxr" / "dev.jsonl"
        sequences = texts(path, 250 if options.quick else 2000, chain.tokenizer)
        positions = sum(map(len, sequences))
        same: dict[tuple[int, str], list[NDArray[np.bool_]]] = {}
        apart: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
        for ids in sequences:
            exact: Floats | None = None  # log-probabilities
            for cut, hidden in zip(chain.cuts, chain.hidden(ids), strict=True):
                if exact is None:
                    exact = _log_softmax(chain.logits(cut, hidden))
                for name, (codec, outliers) in codings.items():
                    frame = encode(hidden, codec, num_outliers=outliers)
                    received = decode(frame, width=width, max_rows=len(hidden))
                    coded = _log_softmax(chain.logits(cut, received))
                    same.setdefault((cut, name), []).append(exact.argmax(1) == coded.argmax(1))
                    apart.setdefault((cut, name), []).append(_divergence(exact, coded))
        for (cut, name), flags in same.items():
            case = f"split {cut} {name} {MODEL}"
            yield Line(
                case=f"agreement {case}",
                ours=float(np.concatenate(flags).mean()),
                unit="share",
                runs=positions,
            )
            yield Line(
                case=f"divergence {case}",
                ours=float(np.concatenate(apart[cut, name]).mean()),
                unit="nats",
                runs=positions,
            )
        for name, (codec, outliers) in codings.items():
            size = row_bytes(codec, width, num_outliers=outliers) / width
            yield Line(case=f"size {name} {MODEL}", ours=size, unit="bytes a hidden unit", runs=1)


def _divergence(exact: Floats, coded: Floats) -> NDArray[np.float64]:
    """KL(exact || coded) of each position, nats, from log-probabilities."""
    result: NDArray[np.float64] = (np.exp(exact) * (exact - coded)).sum(axis=1, dtype=np.float64)
    return result


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
