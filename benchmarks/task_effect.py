"""What masking costs a task: label accuracy and the share answered on the device, with the text as it is and anonymised.

Masking can only change an answer whose text it changed, so the model is asked again for those alone; the figures count all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks._judged_answers import judge
from benchmarks._model_outputs import (
    Example,
    Output,
    cached_outputs,
    compute_outputs,
    read_examples,
)
from benchmarks.line import Line, Options
from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.vault import Vault
from partition.store.model_store import ModelStore
from partition.task import Task, load_task

_MODEL = "smollm2-135m-instruct"
_TASK = Path(__file__).parent.parent / "edge_agent" / "tasks" / "cxr-triage.toml"
_LOCAL_SHARE = 0.8  # of the unmasked texts; the threshold that gives it is kept for the masked ones
_QUICK_TEXTS = 120
_SUFFIX = "-anonymised-"


def run(options: Options) -> Iterator[Line]:
    """The chest X-ray task; asks the model for what is not on disk yet."""
    task = load_task(_TASK)
    examples = read_examples(options.data / "cxr" / "dev.jsonl")
    examples += read_examples(options.data / "cxr" / "train.jsonl")
    known = cached_outputs(_MODEL, task, examples)
    if options.quick or len(known) >= _QUICK_TEXTS:
        examples = tuple(example for example in examples if example.id in known)
    else:
        examples = examples[:_QUICK_TEXTS]
    plain = _outputs(task, examples)
    masked_texts = _masked(examples)
    again = _outputs(task, masked_texts)
    masked: dict[str, Output] = dict(plain)
    for example in masked_texts:
        original = example.id.partition(_SUFFIX)[0]
        masked[original] = replace(again[example.id], id=original)
    yield Line(
        case="texts that masking changed",
        ours=len(masked_texts),
        unit="texts",
        runs=len(examples),
    )
    flipped = sum(plain[e.id].answer.text != masked[e.id].answer.text for e in examples)
    yield Line(case="answers that changed", ours=flipped, unit="answers", runs=len(examples))
    for suffix, with_head in (("", False), ("+head", True)):
        before = judge(task, examples, plain, with_head=with_head)
        after = judge(task, examples, masked, with_head=with_head)
        threshold = float(np.quantile(before.scores, 1 - _LOCAL_SHARE))
        yield Line(
            case=f"label accuracy masked, peer: unmasked, {_MODEL}{suffix}",
            ours=round(float(after.right.mean()), 4),
            theirs=round(float(before.right.mean()), 4),
            peer="the same text unmasked",
            unit="ratio",
            runs=len(examples),
        )
        yield Line(
            case=f"share answered on the device masked, peer: unmasked, {_MODEL}{suffix}",
            ours=round(float((after.scores >= threshold).mean()), 4),
            theirs=round(float((before.scores >= threshold).mean()), 4),
            peer="the same text unmasked",
            unit="ratio",
            runs=len(examples),
        )


def _masked(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The texts that masking changes, masked, under ids of their own."""
    anonymizer = Anonymizer.open(ModelStore(), languages=("en",), timeout_s=60)
    made = []
    for example in examples:
        text = anonymizer.replace((example.text,), Vault(), language="en").texts[0]
        if text != example.text:
            # The id names the text too: another anonymizer masks otherwise.
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            made.append(Example(id=example.id + _SUFFIX + digest, text=text, label=example.label))
    return tuple(made)


def _outputs(task: Task, examples: Sequence[Example]) -> Mapping[str, Output]:
    for _ in compute_outputs(_MODEL, task, examples):
        pass
    return cached_outputs(_MODEL, task, examples)
