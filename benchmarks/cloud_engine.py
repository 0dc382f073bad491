"""The cloud's engine beside transformers: generate one by one, and its own continuous batching. Same model, same machine.

Clients send prompts of mixed length, half of them with a beginning they share, and all of them at once; every answer has the
same number of tokens, so that tokens a second compare. Each engine has run once before it is measured; they take turns, each
in a process of its own, because OpenMP's helpers of one would slow down the other's.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.line import Line, Options

MODEL = "smollm2-135m-instruct"
CLIENTS = (16, 4, 1)
PROMPT_TOKENS = (32, 256)
SHARED_TOKENS = 96  # the beginning that half of the prompts have in common
NUM_TOKENS = 32  # of an answer
STEP_TOKENS = 256
NUM_BLOCKS = 512  # of the peer's cache, of its own block size

Prompts = list[tuple[int, ...]]


def run(options: Options) -> Iterator[Line]:
    """Measure 16, 4 and 1 clients."""
    names = {
        "ours": "tandem",
        "sequential": f"transformers generate {version('transformers')}",
        "batching": f"transformers continuous batching {version('transformers')}",
    }
    chance = random.Random(0)  # noqa: S311  # prompts, not keys
    runs = 1 if options.quick else 3
    with ExitStack() as stack:
        engines = {kind: stack.enter_context(_engine(kind)) for kind in names}
        ours, *peers = engines.values()
        for num_clients in CLIENTS:
            seconds: dict[str, list[float]] = {kind: [] for kind in engines}
            for at in range(runs + 1):
                prompts = _prompts(num_clients, ours.vocabulary_size, chance)
                for kind, engine in engines.items():
                    took_s = engine.answer(prompts)
                    if at:  # the first is for warmth
                        seconds[kind].append(took_s)
            total = num_clients * NUM_TOKENS
            rates = {kind: total / statistics.median(took) for kind, took in seconds.items()}
            for peer in peers:
                yield Line(
                    case=f"generate {num_clients} clients {MODEL} {ours.machine}",
                    ours=rates["ours"],
                    theirs=rates[peer.kind],
                    unit="tokens/s",
                    runs=runs,
                    peer=names[peer.kind],
                )


class _Engine:
    """One of them, in its process."""

    def __init__(self, kind: str, pipe: Connection) -> None:
        self.kind = kind
        self._pipe = pipe
        self.machine, self.vocabulary_size = pipe.recv()

    def answer(self, prompts: Prompts) -> float:
        """Answer all of them; seconds."""
        self._pipe.send(prompts)
        took_s: float = self._pipe.recv()
        return took_s


@contextmanager
def _engine(kind: str) -> Iterator[_Engine]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(kind, there), daemon=True)
    process.start()
    there.close()
    try:
        yield _Engine(kind, here)
    finally:
        here.close()
        process.terminate()
        process.join()


def _serve(kind: str, pipe: Connection) -> None:
    """Run one engine on what comes in, until the other end is closed."""
    import torch

    from cloud_service.config import ModelConfig
    from cloud_service.engine.batching import BatchingEngine, EngineLimits
    from cloud_service.engine.model import load_model

    model = load_model(ModelConfig(name=MODEL))
    dtype = str(model.module.dtype).removeprefix("torch.")
    machine = f"{model.module.device.type} {dtype} {torch.get_num_threads()} threads"
    answer: Callable[[Prompts], None]
    if kind == "ours":
        answer = _Ours(BatchingEngine(model.module, EngineLimits(step_tokens=STEP_TOKENS)))
    elif kind == "sequential":
        answer = _Sequential(model.module)
    else:
        answer = _PeerBatching(model.module)
    pipe.send((machine, model.card.vocabulary_size))
    while True:
        try:
            prompts = pipe.recv()
        except EOFError:
            return
        started_s = time.perf_counter()
        answer(prompts)
        pipe.send(time.perf_counter() - started_s)


def _prompts(count: int, vocabulary_size: int, chance: random.Random) -> Prompts:
    def tokens(length: int) -> tuple[int, ...]:
        return tuple(chance.randrange(1000, vocabulary_size - 1000) for _ in range(length))

    shared = tokens(SHARED_TOKENS)
    prompts = []
    for at in range(count):
        own = tokens(chance.randint(*PROMPT_TOKENS))
        prompts.append(shared + own if at % 2 else own)
    return prompts


class _Ours:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __call__(self, prompts: Prompts) -> None:
        from cloud_service.engine.job import Job
        from partition.generation.sampling import SamplingRule

        listeners = [_Listener() for _ in prompts]
        for prompt, listener in zip(prompts, listeners, strict=True):
            self._engine.submit(
                Job(
                    tenant="bench",
                    prompt_ids=prompt,
                    max_output_tokens=NUM_TOKENS,
                    sampling=SamplingRule(),
                    end_ids=frozenset(),
                    deadline_s=float("inf"),
                    listener=listener,
                )
            )
        for listener in listeners:
            listener.ended.wait()
            assert listener.num_tokens == NUM_TOKENS


class _Listener:
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.num_tokens = 0

    def on_token(self, token_id: int) -> bool:
        self.num_tokens += 1
        return False

    def on_end(self, outcome: object) -> None:
        self.ended.set()


class _Sequential:
    def __init__(self, module: Any) -> None:
        self._module = module
        module.generation_config.eos_token_id = None

    def __call__(self, prompts: Prompts) -> None:
        import torch

        for prompt in prompts:
            ids = torch.tensor([prompt], device=self._module.device)
            output = self._module.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NUM_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            assert output.shape[1] == len(prompt) + NUM_TOKENS


class _PeerBatching:
    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, prompts: Prompts) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        outputs = self._module.generate_batch(
            [list(prompt) for prompt in prompts],
            generation_config=GenerationConfig(
                max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            # As much at once as ours; it would take nine tenths of the machine's memory otherwise.
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=NUM_BLOCKS, max_batch_tokens=STEP_TOKENS
            ),
            persistent_manager=True,
            progress_bar=False,
        )
        assert all(len(output.generated_tokens) == NUM_TOKENS for output in outputs.values())
