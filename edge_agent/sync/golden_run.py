"""Runs golden prompts on a model in a process of its own: ``python -m edge_agent.sync.golden_run FOLDER PROMPTS ...``.

A release that crashes, hangs or eats all memory takes this process along, and not the device's. It also leaves the
built graph in the cache, so that the switch to the release is quick.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.flow import Request
from edge_agent.local_model import LocalModel
from edge_agent.sync.release_layout import ADAPTER, TASKS, folder_of
from partition.errors import PartitionError
from partition.release.golden import GoldenAnswer, GoldenPrompt, parse_golden
from partition.task import Message, Role, load_tasks

BUILT_IN_TASKS = Path(__file__).parents[1] / "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What the model may use; the device's own settings."""

    model: Path
    base: Path | None = None  # folder of another release whose tasks come along
    threads: int
    context_tokens: int
    max_memory_mb: int
    cache: Path


def answer_prompts(
    folder: Path, prompts: Sequence[GoldenPrompt], settings: RunSettings
) -> tuple[GoldenAnswer, ...]:
    """Answer every prompt, greedily, after one for warming up.

    Raises:
        PartitionError: The model or a task cannot be read, or a prompt names no task.
    """
    places = [settings.base, folder] if settings.base is not None else [folder]
    own = [found for place in places if (found := folder_of(place, TASKS)) is not None]
    tasks = load_tasks(BUILT_IN_TASKS, *own)
    model = LocalModel.open(
        settings.model,
        threads=settings.threads,
        max_memory_mb=settings.max_memory_mb,
        context_tokens=settings.context_tokens,
        cache_dir=settings.cache,
        adapter=folder_of(folder, ADAPTER),
    )
    answers: list[GoldenAnswer] = []
    try:
        for prompt in (prompts[0], *prompts):
            task = tasks.get(prompt.task)
            if task is None:
                raise PartitionError(
                    f"golden prompt {prompt.id} names task {prompt.task}, which is missing"
                )
            messages = task.render((Message(role=Role.USER, text=prompt.text),))
            began = time.monotonic()
            answer = model.answer(messages, task, Request(id=prompt.id, task=task.name))
            answers.append(
                GoldenAnswer(
                    id=prompt.id,
                    text=answer.text,
                    scores={score.label: score.log_probability for score in answer.label_scores},
                    ms=1000 * (time.monotonic() - began),
                )
            )
    finally:
        model.close()
    return tuple(answers[1:])


def main(arguments: Sequence[str]) -> int:
    """Answer the prompts of a file and print one JSON object; the exit code is 0 when that was done."""
    folder, prompts, model, threads, context, memory, cache = arguments
    settings = RunSettings(
        model=Path(model),
        threads=int(threads),
        context_tokens=int(context),
        max_memory_mb=int(memory),
        cache=Path(cache),
    )
    try:
        golden = parse_golden(Path(prompts).read_bytes())
        answers = answer_prompts(Path(folder), golden.prompts, settings)
    except PartitionError as error:
        print(str(error), file=sys.stderr)  # noqa: T201 - this is a program
        return 1
    document = {
        "answers": [
            {"id": answer.id, "text": answer.text, "scores": answer.scores, "ms": answer.ms}
            for answer in answers
        ],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(document))  # noqa: T201 - this is a program
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
