"""Speed and memory of the device's engine: prefill, decode, the time from report to verdict; peers in turn, same file, same threads.

Every run has token ids that no run had before, so that nobody's prompt cache helps. Ours and each peer alternate, and the
medians are compared. Each engine has a process of its own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import platformdirs

from benchmarks._engines.engine import EngineProcess, is_installed
from benchmarks.line import Line, Options
from partition.store.model_store import ModelStore
from partition.task import Message, Role, load_task
from partition.text.tokenizer import Tokenizer

MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
THREADS = 2
PEERS = (
    ("llama_cpp_peer", "llama_cpp"),
    ("openvino_peer", "openvino_genai"),
    ("genai_peer", "onnxruntime_genai"),
)
_DECODED_TOKENS = 48
_BATCHES = (2, 4, 8)
_BATCHED_REPORTS = 16
_SHORT_NAMES = {"smollm2-135m-instruct": "smollm2-135m", "qwen2.5-coder-0.5b-instruct": "qwen-0.5b"}
_TASK = Path(__file__).parent.parent / "edge_agent" / "tasks" / "cxr-triage.toml"
_TEXT_MARK = "\x00"


def run(options: Options) -> Iterator[Line]:
    """Measure both models, or with ``--quick`` the small one, against every peer that is installed."""
    runs = 5 if not options.quick else 3
    for name in MODELS[:1] if options.quick else MODELS:
        model = ModelStore().get(name)
        cache_dir = platformdirs.user_cache_path("tandem") / "stages"
        with EngineProcess("ours", model, THREADS, cache_dir) as ours:
            for module, package in PEERS:
                if not is_installed(package):
                    continue
                try:
                    peer = EngineProcess(module, model, THREADS, cache_dir)
                except RuntimeError as error:  # not every peer reads every format of a file
                    print(f"{name}: left out: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                with peer:
                    yield from _compare(
                        _SHORT_NAMES[name], ours, peer, _Prompts(model, options), runs
                    )
            yield from _batches(_SHORT_NAMES[name], ours, _Prompts(model, options), runs)
            yield from _written_together(_SHORT_NAMES[name], ours, _Prompts(model, options), runs)


class _Prompts:
    """Token ids that no run has seen; reports where there are some."""

    def __init__(self, model: Path, options: Options) -> None:
        self._tokenizer = Tokenizer.open(model)
        self._rng = np.random.default_rng()
        self._task = load_task(_TASK)
        path = options.data / "cxr" / "dev.jsonl"
        self._reports = _texts(path) if path.is_file() else [_OWN_REPORT]
        self.labels = [self._tokenizer.encode(label) for label in self._task.labels]

    def random(self, num_tokens: int) -> list[int]:
        highest = self._tokenizer.vocab_size - 2000  # control tokens are at one end or the other
        return self._rng.integers(1000, highest, num_tokens).tolist()

    def report(self) -> tuple[list[int], list[int]]:
        """A report's prompt, cut where the fixed part ends; a few words of it are new in every run."""
        text = self._reports[int(self._rng.integers(len(self._reports)))]
        text = f"{self._rng.integers(1000, 9999)} {text}"
        fixed_text, _, _ = self._render(_TEXT_MARK).partition(_TEXT_MARK)
        whole = self._tokenizer.encode(self._render(text), with_specials=True)
        fixed = self._tokenizer.encode(fixed_text, with_specials=True)
        shared = 0
        while shared < len(fixed) and fixed[shared] == whole[shared]:
            shared += 1
        return list(whole[:shared]), list(whole[shared:])

    def reports(self, count: int) -> tuple[list[int], list[list[int]]]:
        """Several of them, with the shortest fixed part."""
        found = [self.report() for _ in range(count)]
        shared = min(len(fixed) for fixed, _ in found)
        return found[0][0][:shared], [[*fixed[shared:], *rest] for fixed, rest in found]

    def _render(self, text: str) -> str:
        messages = self._task.render((Message(role=Role.USER, text=text),))
        return self._tokenizer.chat.render(messages)


def _compare(
    model: str, ours: EngineProcess, peer: EngineProcess, prompts: _Prompts, runs: int
) -> Iterator[Line]:
    def paired(ask: Callable[[EngineProcess], float]) -> tuple[float, float]:
        ask(ours), ask(peer)  # warm
        pairs = [(ask(ours), ask(peer)) for _ in range(runs)]
        return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)

    for length in (256, 512):
        a, b = paired(lambda engine, n=length: engine.ask("prefill", prompts.random(n)))
        yield Line(
            case=f"prefill-{length} {model}",
            ours=length / a,
            theirs=length / b,
            unit="tokens/s",
            runs=runs,
            peer=peer.name,
        )
    a, b = paired(lambda engine: engine.ask("decode", prompts.random(256), _DECODED_TOKENS))
    yield Line(
        case=f"decode after 256 {model}",
        ours=_DECODED_TOKENS / a,
        theirs=_DECODED_TOKENS / b,
        unit="tokens/s",
        runs=runs,
        peer=peer.name,
    )
    a, b = paired(lambda engine: engine.ask("verdict", *prompts.report(), prompts.labels))
    yield Line(
        case=f"verdict cxr-triage {model}",
        ours=1000 * a,
        theirs=1000 * b,
        unit="ms",
        runs=runs,
        peer=peer.name,
        less_is_better=True,
    )
    yield Line(
        case=f"peak memory {model}",
        ours=ours.peak_mb(),
        theirs=peer.peak_mb(),
        unit="MB",
        runs=1,
        peer=peer.name,
        less_is_better=True,
    )


def _batches(model: str, ours: EngineProcess, prompts: _Prompts, runs: int) -> Iterator[Line]:
    """Reports in batches against the same engine and as many reports one at a time."""

    def seconds(batch: int) -> float:
        fixed, rests = prompts.reports(_BATCHED_REPORTS)
        return ours.ask("verdicts", fixed, rests, prompts.labels, batch)

    seconds(1), seconds(max(_BATCHES))  # warm
    found = [(seconds(1), *(seconds(batch) for batch in _BATCHES)) for _ in range(runs)]
    alone, *together = (statistics.median(times) for times in zip(*found, strict=True))
    for batch, time_s in zip(_BATCHES, together, strict=True):
        yield Line(
            case=f"batch of {batch} verdicts cxr-triage {model}",
            ours=_BATCHED_REPORTS / time_s,
            theirs=_BATCHED_REPORTS / alone,
            unit="reports/s",
            runs=runs,
            peer="the same engine, one at a time",
        )


def _written_together(
    model: str, ours: EngineProcess, prompts: _Prompts, runs: int
) -> Iterator[Line]:
    """Answers written at once against the same engine writing one."""

    def seconds(batch: int) -> float:
        some = [prompts.random(256) for _ in range(batch)]
        return ours.ask("decode_together", some, _DECODED_TOKENS)

    seconds(1), seconds(max(_BATCHES))  # warm
    found = [(seconds(1), *(seconds(batch) for batch in _BATCHES)) for _ in range(runs)]
    alone, *together = (statistics.median(times) for times in zip(*found, strict=True))
    for batch, time_s in zip(_BATCHES, together, strict=True):
        yield Line(
            case=f"decode of {batch} together after 256 {model}",
            ours=batch * _DECODED_TOKENS / time_s,
            theirs=_DECODED_TOKENS / alone,
            unit="tokens/s",
            runs=runs,
            peer="the same engine, one at a time",
        )


_OWN_REPORT = (
    "The heart is normal in size. The mediastinum is unremarkable. There is a small opacity in the right lower lobe. "
    "No pleural effusion or pneumothorax. Degenerative changes of the thoracic spine."
)


def _texts(path: Path) -> list[str]:
    from benchmarks._model_outputs import read_examples

    return [example.text for example in read_examples(path)]
