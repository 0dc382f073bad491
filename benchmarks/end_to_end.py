"""Whole requests through a real agent: latency by step and route, what is not model time, requests a second.

Real weights and real text (``cxr/dev.jsonl`` of the data folder; without it, the reports of ``samples/``). The route is forced by
each task's policy, so that a figure is of one route: LOCAL (threshold 0), QUEUED (may not stay local, cloud unreachable) and,
unless ``--quick``, CLOUD (may not stay local) against a cloud service of its own on this machine, over mutual TLS.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.line import Line, Options
from edge_agent import Answer, EdgeAgent, Route

NUM_THREADS = 8
SAMPLES = Path(__file__).parents[1] / "samples" / "requests.jsonl"
NOWHERE = {"target": "127.0.0.1:1", "insecure_loopback": True}  # nothing listens there
_TASK = """
name = "{name}"
kind = "classify"
labels = ["normal", "abnormal"]
[prompt]
system = "You read chest X-ray reports."
template = "Findings: {{text}}\\nIs this chest X-ray normal or abnormal? Answer with one word."
[policy]
{policy}
"""
_WRITING_TASK = """
name = "bench-write"
kind = "generate"
[prompt]
system = "You are a radiologist's assistant. You write the impression of a report in at most three short sentences."
template = "Findings:\\n{text}\\n\\nImpression:"
[limits]
max_output_tokens = 48
[policy]
local_threshold = 0.0
"""
_POLICIES = {
    "local": "local_threshold = 0.0",
    "elsewhere": "may_stay_local = false",
}


def run(options: Options) -> Iterator[Line]:
    """Measure each route by itself, then threads together."""
    number = 16 if options.quick else 200
    texts = _texts(options.data, number)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = folder / "tasks"
        tasks.mkdir()
        for task, policy in _POLICIES.items():
            document = _TASK.format(name=f"bench-{task}", policy=policy)
            (tasks / f"{task}.toml").write_text(document, encoding="utf-8")
        (tasks / "write.toml").write_text(_WRITING_TASK, encoding="utf-8")
        flags: dict[str, Any] = {"tasks": (tasks,), "state_folder": folder / "state"}
        with EdgeAgent.from_config(None, **flags, cloud=NOWHERE) as agent:
            yield from _route(agent, "bench-local", Route.LOCAL, texts)
            yield from _route(agent, "bench-elsewhere", Route.QUEUED, texts)
            yield from _rates(agent, "bench-local", texts)
            yield from _writing_rates(agent, "bench-write", texts[: 8 if options.quick else 32])
        if not options.quick:
            yield from _cloud(folder, flags, texts[:50])


def _cloud(folder: Path, flags: dict[str, Any], texts: Sequence[str]) -> Iterator[Line]:
    """Start a cloud service as `make run` does, and ask it."""
    from samples.demo import CloudProcess

    cloud = CloudProcess(folder)
    with cloud.running():
        section = {
            "target": cloud.address,
            "ca": cloud.pki.ca,
            "certificate": cloud.pki.device_certificate,
            "key": cloud.pki.device_key,
        }
        with EdgeAgent.from_config(None, **flags, cloud=section) as agent:
            yield from _route(agent, "bench-elsewhere", Route.CLOUD, texts)


def _route(agent: EdgeAgent, task: str, route: Route, texts: Sequence[str]) -> Iterator[Line]:
    """Ask one after the other, and look at the steps."""
    agent.ask(texts[0], task=task)  # the first one warms caches
    answers = [agent.ask(text, task=task) for text in texts]
    taken = [answer for answer in answers if answer.route is route]
    if len(taken) < len(answers):  # a cloud that was too slow, say: the figure would mix two routes
        raise SystemExit(
            f"{len(answers) - len(taken)} of {len(answers)} requests did not go {route}"
        )
    steps = sorted({step for answer in taken for step in answer.latency_ms})
    for step in steps:
        values = [answer.latency_ms.get(step, 0.0) for answer in taken]
        for percent in (50, 95):
            yield Line(
                case=f"latency-p{percent} {route} {step}",
                ours=_percentile(values, percent),
                unit="ms",
                runs=len(values),
                less_is_better=True,
            )
    yield Line(
        case=f"not-model-share {route}",
        ours=100 * statistics.median(map(_share_beside_models, taken)),
        unit="%",
        runs=len(taken),
        less_is_better=True,
    )


def _rates(agent: EdgeAgent, task: str, texts: Sequence[str]) -> Iterator[Line]:
    """Ask from one thread and from many."""
    for num_threads in (1, NUM_THREADS):
        with ThreadPoolExecutor(num_threads) as pool:
            started = time.perf_counter()
            list(pool.map(lambda text: agent.ask(text, task=task), texts))
            elapsed_s = time.perf_counter() - started
        yield Line(
            case=f"requests LOCAL, {num_threads} threads",
            ours=len(texts) / elapsed_s,
            unit="requests/s",
            runs=len(texts),
        )


def _share_beside_models(answer: Answer) -> float:
    """Part of the time in which no model ran; the cloud step counts as model time, wire included."""
    model_ms = sum(answer.latency_ms.get(step, 0.0) for step in ("local_model", "cloud"))
    return 1 - model_ms / answer.latency_ms["total"]


def _writing_rates(agent: EdgeAgent, task: str, texts: Sequence[str]) -> Iterator[Line]:
    """Have notes written for one caller, and for several at once."""

    def tokens_and_seconds(num_callers: int) -> tuple[int, float]:
        with ThreadPoolExecutor(num_callers) as pool:
            started = time.perf_counter()
            answers = list(pool.map(lambda text: agent.ask(text, task=task), texts))
            return sum(one.usage.output_tokens for one in answers), time.perf_counter() - started

    tokens_and_seconds(NUM_THREADS)  # warm
    num_tokens, alone_s = tokens_and_seconds(1)
    for num_callers in (2, 4, 8):
        num_together, together_s = tokens_and_seconds(num_callers)
        for what, unit, ours, theirs in (
            ("notes", "notes/s", len(texts) / together_s, len(texts) / alone_s),
            ("tokens", "tokens/s", num_together / together_s, num_tokens / alone_s),
        ):
            yield Line(
                case=f"written {what} LOCAL, {num_callers} callers",
                ours=ours,
                theirs=theirs,
                unit=unit,
                runs=len(texts),
                peer="the same agent, one caller",
            )


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _texts(data: Path, number: int) -> list[str]:
    path = data / "cxr" / "dev.jsonl"
    source = path if path.is_file() else SAMPLES
    with source.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row["text"] for row in rows if row.get("text")]
    return [texts[index % len(texts)] for index in range(number)]
