"""A running model is exchanged for another release while requests come in, and goes back.

Two releases of SmolLM2-135M are installed into a real store; two threads ask without pause. Measured are requests that
failed, the 99th percentile while the new model loads and takes over against a quiet time, the pause of the switch itself,
and how long going back takes until the old release answers.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from benchmarks.line import Line, Options
from edge_agent.flow import Request
from edge_agent.local_model import LocalModel
from edge_agent.sync.switch import Switch
from partition.store.model_store import ModelStore
from partition.task import Message, Role, Task, TaskKind

MODEL = "smollm2-135m-instruct"
NUM_THREADS = 2
TASK = Task(name="triage", kind=TaskKind.CLASSIFY, labels=("normal", "abnormal"))
TEXT = "Report {}: the heart is normal in size, the lungs are clear. Is this report normal or abnormal?"


def run(options: Options) -> Iterator[Line]:
    """Measure exchanges, under all the load there can be and under half of it."""
    runs = 2 if options.quick else 6
    path = ModelStore().get(MODEL)
    cache = Path(platformdirs.user_cache_dir("tandem")) / "stages"
    _open(path, cache).close()  # the gate builds the graph before a release is tried
    pauses, backs = [], []
    for name, idle_ratio in (("saturated", 0.0), ("half of the time idle", 1.0)):
        quiet, busy, failures = [], [], 0
        for _ in range(runs):
            switch = Switch(_open(path, cache))
            load = _Load(switch, idle_ratio)
            load.run_for(3.0)
            quiet += load.take()
            thread = threading.Thread(target=load.run_for, args=(0.0,))
            thread.start()
            fresh = _open(path, cache, beside=switch.current)
            began = time.perf_counter()
            switch.replace(fresh, LocalModel.close)
            pauses.append(time.perf_counter() - began)
            time.sleep(1.0)
            load.stop()
            thread.join()
            busy += load.take()
            failures += load.num_failures
            began = time.perf_counter()
            switch.replace(_open(path, cache, beside=switch.current), LocalModel.close)
            with switch.use() as model:
                _ask(model)
            backs.append(time.perf_counter() - began)
            switch.current.close()
        yield Line(
            case=f"requests failed of {len(quiet) + len(busy)}, {name}",
            ours=float(failures),
            unit="requests",
            runs=runs,
        )
        yield Line(
            case=f"p99 while a release takes over, against before, {name}",
            ours=_p99(busy) / _p99(quiet),
            unit="times",
            runs=runs,
        )
    yield Line(
        case="pause of the switch, longest", ours=1000 * max(pauses), unit="ms", runs=2 * runs
    )
    yield Line(
        case="back on the release before, with its first answer",
        ours=statistics.median(backs),
        unit="s",
        runs=2 * runs,
    )


class _Load:
    """Asks from several threads until it is stopped."""

    def __init__(self, switch: Switch[LocalModel], idle_ratio: float) -> None:
        self._switch = switch
        self._idle_ratio = idle_ratio  # of the time that an answer takes, before the next is asked
        self._stop = threading.Event()
        self._times: list[float] = []
        self.num_failures = 0

    def run_for(self, seconds: float) -> None:
        self._stop.clear()
        threads = [threading.Thread(target=self._work) for _ in range(NUM_THREADS)]
        for thread in threads:
            thread.start()
        if seconds:
            time.sleep(seconds)
            self._stop.set()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        self._stop.set()

    def take(self) -> list[float]:
        times, self._times = self._times, []
        return times

    def _work(self) -> None:
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                with self._switch.use() as model:
                    _ask(model)
            except Exception:  # any failure counts
                self.num_failures += 1
            self._times.append(time.perf_counter() - began)
            time.sleep(self._idle_ratio * self._times[-1])


_numbers = itertools.count()


def _ask(model: LocalModel) -> None:
    """Ask something new, so that nothing of the report is in the model's cache."""
    messages = TASK.render((Message(role=Role.USER, text=TEXT.format(next(_numbers))),))
    model.answer(messages, TASK, Request(id="benchmark", task=TASK.name))


def _open(path: Path, cache: Path, beside: LocalModel | None = None) -> LocalModel:
    return LocalModel.open(
        path, threads=2, max_memory_mb=None, context_tokens=512, cache_dir=cache, beside=beside
    )


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))] if times else 0.0
