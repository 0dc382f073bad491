"""Label heads on the device: which one may choose the label of a task, and what a local answer becomes by it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.flow import LabelScore, LocalAnswer
from partition.calibration.label_head import LabelHead
from partition.errors import CalibrationError
from partition.fingerprint import Setup
from partition.task import Task

logger = logging.getLogger(__name__)


def with_heads(
    setups: Mapping[str, Setup], tasks: Mapping[str, Task], folder: Path | None
) -> tuple[dict[str, Setup], dict[str, LabelHead]]:
    """Read ``<task>.json`` for the tasks that have one, and bind their setups to it.

    A head of another model, prompt or anonymizer is left aside with a warning: the model then chooses by itself, and a
    certificate made with the head is void.

    Args:
        setups: By task, without heads.
        tasks: By name.
        folder: Of the files; None: no heads.

    Returns:
        The setups that run, and the heads by task.

    Raises:
        ConfigError: The folder does not exist, or a file in it is no label head of its task.
    """
    running, heads = dict(setups), dict[str, LabelHead]()
    if folder is None:
        return running, heads
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; correct `heads` in the configuration")
    for name, setup in setups.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        try:
            head = LabelHead.load(path)
        except CalibrationError as error:
            raise ConfigError(str(error)) from error
        if head.task != name or set(head.labels) - set(tasks[name].labels):
            raise ConfigError(
                f"{path}: a label head of another task or of other labels; train one for this task"
            )
        if head.setup != setup.sha256:
            logger.warning(
                "the label head of task %s was trained for another model, prompt or anonymizer and is not used; train it again",
                name,
            )
            continue
        heads[name] = head
        running[name] = replace(setup, head_sha256=head.sha256)
    return running, heads


def relabelled(answer: LocalAnswer, head: LabelHead) -> LocalAnswer:
    """The answer with the head's choice among the labels; as it was where the hidden state does not fit the head."""
    logs = head.log_probabilities(answer.hidden)
    if logs is None:
        return answer
    best = max(range(len(logs)), key=logs.__getitem__)  # the first of equals
    return replace(
        answer,
        text=head.labels[best],
        token_log_probabilities=(logs[best],),
        label_scores=tuple(
            LabelScore(label=label, log_probability=value)
            for label, value in zip(head.labels, logs, strict=True)
        ),
    )
