"""One edge model's answers to one data set, judged and scored in cross-validation, with or without a label head.

Five folds that never part texts which differ only in case, digits or punctuation. With a head, each fold's head is trained on
the other four alone, and the scorer on what five inner heads say of records that they have not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks._model_outputs import Example, Output
from edge_agent.confidence import features
from edge_agent.flow import LocalAnswer
from edge_agent.labelling import relabelled
from partition.calibration.calibration import divide
from partition.calibration.head_training import train_head
from partition.calibration.prompt_gate import prompt_vector
from partition.calibration.records import Record, cluster_of
from partition.calibration.scorer_training import rescored, train
from partition.task import Task

_SETUP = "0" * 64  # of the benchmark; nothing is installed anywhere
Rows = NDArray[np.int_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JudgedAnswers:
    """All arrays ``(n,)``; everything was scored by what had not seen it."""

    examples: tuple[Example, ...]
    right: NDArray[np.bool_]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    plain: Mapping[str, NDArray[np.float64]]  # of one feature alone, higher when surer
    groups: Rows  # equal for near-duplicates
    records: tuple[Record, ...]  # with the cross-validated score


def judge(
    task: Task, examples: tuple[Example, ...], outputs: Mapping[str, Output], *, with_head: bool
) -> JudgedAnswers:
    """Score every answer by a scorer, and a head, that were trained without it."""
    names = [cluster_of(example.text, b"benchmark") for example in examples]
    groups = np.unique(names, return_inverse=True)[1]
    answers = [_answer(outputs[example.id]) for example in examples]
    labels = np.array([example.label for example in examples])
    scores, probabilities = np.empty(len(examples)), np.empty(len(examples))
    records: list[Record | None] = [None] * len(examples)

    def made(rows: Rows, answered: Sequence[LocalAnswer]) -> list[Record]:
        return [
            _record(task, examples[row], answer, names[row])
            for row, answer in zip(rows, answered, strict=True)
        ]

    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for seen, held_out in folds.split(scores, labels, groups):
        known, fresh = [answers[row] for row in seen], [answers[row] for row in held_out]
        if with_head:
            known, fresh = _labelled_by_heads(
                made(seen, known), known, fresh, labels[seen], groups[seen]
            )
        # One record of each group, as in calibration: copies in two inner folds would make the scorer too sure.
        scorer = train(divide(made(seen, known), dev_percent=100).dev).scorer
        for row, record in zip(held_out, rescored(made(held_out, fresh), scorer), strict=True):
            records[row] = record
            scores[row] = record.score
            probabilities[row] = scorer.display.probability(record.score)
    whole = tuple(record for record in records if record is not None)
    assert len(whole) == len(examples)
    found = [dict(record.features) for record in whole]
    return JudgedAnswers(
        examples=examples,
        right=np.array([record.is_right for record in whole]),
        scores=scores,
        probabilities=probabilities,
        plain={
            "max-probability": np.array([row["opt_max"] for row in found]),
            # With a head, the entropy of its own distribution; the model's own says nothing about the head's choice.
            "token-entropy": -np.array(
                [row["opt_entropy" if with_head else "first_entropy"] for row in found]
            ),
        },
        groups=groups,
        records=whole,
    )


def _labelled_by_heads(
    records: Sequence[Record],
    known: Sequence[LocalAnswer],
    fresh: Sequence[LocalAnswer],
    labels: NDArray[np.str_],
    groups: Rows,
) -> tuple[list[LocalAnswer], list[LocalAnswer]]:
    """What heads say of the records they were not trained on: of ``known`` five inner ones, of ``fresh`` the whole one."""
    whole = train_head(records)
    inner = list(known)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=1)
    for seen, held_out in folds.split(np.zeros(len(known)), labels, groups):
        head = train_head([records[row] for row in seen], strength=whole.strength).head
        for row in held_out:
            inner[row] = relabelled(known[row], head)
    return inner, [relabelled(answer, whole.head) for answer in fresh]


def _answer(output: Output) -> LocalAnswer:
    return replace(output.answer, hidden=tuple(output.hidden.tolist()))


def _record(task: Task, example: Example, answer: LocalAnswer, cluster: str) -> Record:
    return Record(
        id=example.id,
        score=0.0,
        loss=float(answer.text != example.label),
        task=task.name,
        cluster=cluster,
        features=features(answer, task),
        hidden=answer.hidden,
        setup=_SETUP,
        truth=example.label,
        prompt=prompt_vector(example.text),
    )
