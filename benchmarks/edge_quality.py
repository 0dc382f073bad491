"""What 8 bits cost: perplexity, KL and top-1 agreement against the float32 stage of the same weights, on real texts; label agreement.

Peers are held against the same reference: llama.cpp multiplies by the file's own weights, and rounds activations to 8 bits as we
do; onnxruntime-genai by weights that its builder rounded to 4 bits again, OpenVINO by what its reader makes of the file's blocks.
Where two tokens are almost equally likely any rounding may swap them, so agreement is also counted where the reference prefers one
clearly; that adds to the whole count and replaces nothing.

A text is read as the user's turn of a chat, and only its own tokens count: the turn's frame is the same in all texts, and
counting it once for each would let a few positions decide.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import platformdirs

from benchmarks._engines.engine import is_installed
from benchmarks._engines.llama_cpp_logits import LlamaCppLogits
from benchmarks._engines.openvino_logits import OpenVinoLogits
from benchmarks._model_outputs import read_examples
from benchmarks.line import Line, Options
from partition.generation.sampling import log_softmax
from partition.stages.onnx_stage import OnnxStage
from partition.stages.stage_range import Precision
from partition.store.model_store import ModelStore
from partition.task import Message, Role, load_task
from partition.text.tokenizer import Tokenizer
from partition.weights.weight_source import open_weights

MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
REFERENCE = "float32 of the same weights"
_CONTEXT_TOKENS = 2048
_CLEAR_NATS = 0.1  # by which the likeliest token leads
_TASK = Path(__file__).parent.parent / "edge_agent" / "tasks" / "cxr-triage.toml"


def run(options: Options) -> Iterator[Line]:
    """Measure both models, or with ``--quick`` the small one on few texts."""
    for name in MODELS[:1] if options.quick else MODELS:
        model = ModelStore().get(name)
        fine, coarse = (_open(model, precision) for precision in Precision)
        peers = _peers(model)
        tokenizer = Tokenizer.open(model)
        for data, count in (("cxr", 40), ("headlines", 80)):
            texts = [example.text for example in read_examples(options.data / data / "dev.jsonl")]
            texts = texts[: count // 3 if options.quick else count]
            tally, peer_tallies = _Tally(), [_Tally() for _ in peers]
            for text in texts:
                ids, first = _turn(tokenizer, text)
                reference = _log_probabilities(fine, ids)
                tally.add(reference, _log_probabilities(coarse, ids), ids, first)
                for peer, peer_tally in zip(peers, peer_tallies, strict=True):
                    peer_tally.add(reference, log_softmax(peer.logits(ids)), ids, first)
            case = f"{data} {name}"
            for peer, peer_tally in zip(peers, peer_tallies, strict=True):
                yield from tally.against(case, peer_tally, peer.version())
            yield from tally.alone(case)
        yield _labels(name, tokenizer, fine, coarse, options)
        fine.close()
        coarse.close()


class _Peer(Protocol):
    def version(self) -> str: ...

    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]: ...


@dataclass
class _Tally:
    divergences: list[npt.NDArray[np.float64]] = field(default_factory=list)
    agreements: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    are_clear: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    loss_reference: float = 0.0
    loss: float = 0.0
    num_losses: int = 0

    def add(
        self,
        reference: npt.NDArray[np.float64],
        ours: npt.NDArray[np.float64],
        ids: npt.NDArray[np.int32],
        first: int,
    ) -> None:
        """Add one text; both are ``(positions, vocab_size)``."""
        reference, ours, next_ids = reference[first:-1], ours[first:-1], ids[first + 1 :]
        self.divergences.append((np.exp(reference) * (reference - ours)).sum(-1))
        self.agreements.append(reference.argmax(-1) == ours.argmax(-1))
        second, best = np.partition(reference, -2)[:, -2:].T
        self.are_clear.append(best - second > _CLEAR_NATS)
        rows = np.arange(len(next_ids))
        self.loss_reference -= float(reference[rows, next_ids].sum())
        self.loss -= float(ours[rows, next_ids].sum())
        self.num_losses += len(rows)

    def against(self, case: str, peer: _Tally, peer_name: str) -> Iterator[Line]:
        yield Line(
            case=f"mean KL {case}",
            ours=self.mean_divergence,
            theirs=peer.mean_divergence,
            unit="nats",
            runs=self.num_losses,
            peer=peer_name,
            less_is_better=True,
        )
        yield Line(
            case=f"top-1 agreement {case}",
            ours=self.agreement,
            theirs=peer.agreement,
            unit="share",
            runs=self.num_losses,
            peer=peer_name,
        )
        yield Line(
            case=f"top-1 agreement where clear {case}",
            ours=self.clear_agreement,
            theirs=peer.clear_agreement,
            unit="share",
            runs=int(np.concatenate(self.are_clear).sum()),
            peer=peer_name,
        )

    def alone(self, case: str) -> Iterator[Line]:
        yield Line(
            case=f"perplexity {case}",
            ours=math.exp(self.loss / self.num_losses),
            theirs=math.exp(self.loss_reference / self.num_losses),
            unit="",
            runs=self.num_losses,
            peer=REFERENCE,
            less_is_better=True,
        )

    @property
    def mean_divergence(self) -> float:
        return float(np.concatenate(self.divergences).mean())

    @property
    def clear_agreement(self) -> float:
        agreements, are_clear = np.concatenate(self.agreements), np.concatenate(self.are_clear)
        return float(agreements[are_clear].mean())

    @property
    def agreement(self) -> float:
        return float(np.concatenate(self.agreements).mean())


def _peers(model: Path) -> list[_Peer]:
    found: list[_Peer] = []
    cache_dir = platformdirs.user_cache_path("tandem") / "benchmarks"
    if is_installed("llama_cpp"):
        found.append(LlamaCppLogits(model))
    if is_installed("openvino_genai"):
        try:
            found.append(OpenVinoLogits(model, cache_dir))
        except RuntimeError as error:  # not every peer reads every format of a file
            print(f"{model.name}: left out: {str(error).splitlines()[0]}", file=sys.stderr)
    if is_installed("onnxruntime_genai"):
        from benchmarks._engines.genai_logits import GenaiLogits

        found.append(GenaiLogits(model, cache_dir))
    return found


def _labels(
    name: str, tokenizer: Tokenizer, fine: OnnxStage, coarse: OnnxStage, options: Options
) -> Line:
    """How often both choose the same label of the triage task, by the first token that differs."""
    task = load_task(_TASK)
    firsts = [tokenizer.encode(label)[0] for label in task.labels]
    examples = read_examples(options.data / "cxr" / "dev.jsonl")[: 12 if options.quick else 60]
    same = 0
    for example in examples:
        messages = task.render((Message(role=Role.USER, text=example.text),))
        ids = np.array(tokenizer.encode(tokenizer.chat.render(messages)), np.int32)
        choices = []
        for stage in (fine, coarse):
            stage.forget("labels")
            logits = stage.extend("labels", ids, base_len=0).logits
            assert logits is not None
            choices.append(int(np.argmax(logits[0, firsts])))
        same += choices[0] == choices[1]
    return Line(
        case=f"same label cxr-triage {name}",
        ours=same / len(examples),
        unit="share",
        runs=len(examples),
    )


def _open(model: Path, precision: Precision) -> OnnxStage:
    return OnnxStage.open(
        open_weights(model),
        precision=precision,
        threads=2,
        context_tokens=_CONTEXT_TOKENS,
        cache_dir=platformdirs.user_cache_path("tandem") / "stages",
    )


def _turn(tokenizer: Tokenizer, text: str) -> tuple[npt.NDArray[np.int32], int]:
    """Ids of a chat turn, and the position before the text's first own token."""
    prompts = [
        tokenizer.encode(tokenizer.chat.render((Message(role=Role.USER, text=one),)))
        for one in (text, "")
    ]
    whole, frame = (np.array(prompt, np.int32) for prompt in prompts)
    length = min(len(whole), len(frame))
    differences = np.flatnonzero(whole[:length] != frame[:length])
    return whole, max(0, int(differences[0]) - 1)


def _log_probabilities(stage: OnnxStage, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    stage.forget("text")
    logits = stage.extend("text", ids, base_len=0, rows=np.arange(len(ids))).logits
    return log_softmax(logits)
