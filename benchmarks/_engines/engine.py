"""What every engine can be asked, and the process it lives in."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

CONTEXT_TOKENS = 2048
_ANSWER_S = 600.0


class Engine(Protocol):
    """One loaded model. Times are seconds of wall clock."""

    def version(self) -> str:
        """Name and version, for the table."""

    def prefill(self, ids: Sequence[int]) -> float:
        """Run a prompt nothing of which is cached, up to the first token of the answer."""

    def decode(self, ids: Sequence[int], num_tokens: int) -> float:
        """Run a prompt, then that many tokens more, greedily; only these count. No end of the answer stops it."""

    def verdict(
        self, fixed: Sequence[int], rest: Sequence[int], labels: Sequence[Sequence[int]]
    ) -> float:
        """Choose a label for a prompt whose ``fixed`` beginning is cached, where the engine can, and ``rest`` is not."""


class EngineProcess:
    """An engine in a child process, so that peers share neither threads nor memory."""

    def __init__(self, module: str, model: Path, threads: int, cache_dir: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, module, str(model), threads, str(cache_dir)), daemon=True
        )
        self._process.start()
        theirs.close()
        self.name: str = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def ask(self, method: str, *arguments: Any) -> float:
        """Call a method of the engine there."""
        self._connection.send((method, arguments))
        return float(self._receive())

    def peak_mb(self) -> float:
        """Largest resident memory of the process so far, without what Python and the benchmark take themselves."""
        return self.ask("peak_mb")

    def _receive(self) -> Any:
        if not self._connection.poll(_ANSWER_S):
            raise RuntimeError(
                "an engine did not answer in ten minutes; measure on a quieter machine"
            )
        try:
            answer = self._connection.recv()
        except EOFError as error:
            raise RuntimeError("an engine's process ended; is the peer installed?") from error
        if isinstance(answer, Exception):
            raise RuntimeError(f"an engine failed: {answer}") from answer
        return answer


def is_installed(package: str) -> bool:
    """Whether a peer's package can be imported."""
    return importlib.util.find_spec(package) is not None


def _serve(connection: Connection, module: str, model: str, threads: int, cache_dir: str) -> None:
    before = _peak_mb()
    try:
        factory = importlib.import_module(f"benchmarks._engines.{module}")
        engine = factory.open_engine(Path(model), threads, Path(cache_dir))
        connection.send(engine.version())
    # Whatever a foreign library raises, the parent has to hear of it.
    except Exception as error:
        connection.send(RuntimeError(f"{module}: {type(error).__name__}: {error}"))
        return
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            if method == "peak_mb":
                connection.send(_peak_mb() - before)
            else:
                connection.send(getattr(engine, method)(*arguments))
        except Exception as error:
            connection.send(RuntimeError(f"{module}: {type(error).__name__}: {error}"))


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def timed(call: Any, *arguments: Any) -> float:
    """Seconds one call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start
