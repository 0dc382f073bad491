"""What each model says to each text of a data set, kept on disk, so that everything computed from it is free.

One JSON object a line, in a file named after task, prompt, model and the build of its stages: another build answers a little
differently. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from edge_agent.flow import LabelScore, LocalAnswer, Request
from edge_agent.local_model import LocalModel
from partition.stages.stage_files import ANSWERS_VERSION
from partition.store.model_store import ModelStore
from partition.task import Message, Role, Task

CACHE = Path(platformdirs.user_cache_dir("tandem")) / "benchmarks" / "model-outputs"
_CONTEXT_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled text."""

    id: str
    text: str
    label: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Output:
    """One model's answer to one example."""

    id: str
    answer: LocalAnswer
    hidden: NDArray[np.float32]  # (width,), the residual stream at the last prompt position


def read_examples(path: Path) -> tuple[Example, ...]:
    """Lines of ``{"id", "text", "label"}``."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return tuple(Example(id=row["id"], text=row["text"], label=row["label"]) for row in rows)


def cached_outputs(model: str, task: Task, examples: Sequence[Example]) -> dict[str, Output]:
    """What is on disk already, by example id."""
    path = _path(model, task)
    wanted = {example.id for example in examples}
    found: dict[str, Output] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when the run was stopped
            if row["id"] in wanted:
                found[row["id"]] = _from_row(row)
    return found


def compute_outputs(
    model: str, task: Task, examples: Sequence[Example], *, threads: int = 2
) -> Iterator[Output]:
    """Ask the model for every example that is not on disk yet, and keep the answers."""
    missing_ids = {example.id for example in examples} - set(cached_outputs(model, task, examples))
    missing = [example for example in examples if example.id in missing_ids]
    if not missing:
        return
    local = LocalModel.open(
        ModelStore(CACHE.parent.parent).get(model),
        threads=threads,
        max_memory_mb=None,
        context_tokens=_CONTEXT_TOKENS,
        cache_dir=CACHE.parent / "stages",
    )
    path = _path(model, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8") as file:
            for example in missing:
                messages = task.render((Message(role=Role.USER, text=example.text),))
                request = Request(id=example.id, task=task.name, text=example.text)
                answer = local.answer(messages, task, request)
                file.write(json.dumps(_to_row(example.id, answer)) + "\n")
                file.flush()
                yield Output(id=example.id, answer=answer, hidden=_hidden(answer))
    finally:
        local.close()


def _path(model: str, task: Task) -> Path:
    return CACHE / f"{task.name}-{task.prompt_sha256[:12]}-{model}-build-{ANSWERS_VERSION}.jsonl"


def _hidden(answer: LocalAnswer) -> NDArray[np.float32]:
    return np.array(answer.hidden, dtype=np.float32)


def _to_row(example_id: str, answer: LocalAnswer) -> dict[str, object]:
    hidden = base64.b64encode(_hidden(answer).astype("<f4").tobytes()).decode()
    return {
        "id": example_id,
        "text": answer.text,
        "tokens": answer.token_log_probabilities,
        "labels": {score.label: score.log_probability for score in answer.label_scores},
        "first_entropy": answer.first_entropy,
        "input_tokens": answer.num_input_tokens,
        "output_tokens": answer.num_output_tokens,
        "hidden": hidden,
    }


def _from_row(row: dict[str, object]) -> Output:
    hidden = np.frombuffer(base64.b64decode(str(row["hidden"])), dtype="<f4")
    labels, tokens = row["labels"], row["tokens"]
    assert isinstance(labels, dict)
    assert isinstance(tokens, list)
    answer = LocalAnswer(
        text=str(row["text"]),
        token_log_probabilities=tuple(map(float, tokens)),
        label_scores=tuple(
            LabelScore(label=label, log_probability=float(value)) for label, value in labels.items()
        ),
        first_entropy=float(str(row["first_entropy"])),
        num_input_tokens=int(str(row["input_tokens"])),
        num_output_tokens=int(str(row["output_tokens"])),
    )
    return Output(id=str(row["id"]), answer=answer, hidden=hidden)


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of ids and labels, so that a figure says what it was measured on."""
    text = "\n".join(f"{example.id} {example.label}" for example in examples)
    return hashlib.sha256(text.encode()).hexdigest()
