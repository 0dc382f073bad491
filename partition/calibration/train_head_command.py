"""``partition train-head``: from labelled answers with hidden states to a label head."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from partition.calibration.calibration import by_task
from partition.calibration.records import read_records
from partition.console_script import json_option, print_json
from partition.errors import CalibrationError


@click.command()
@click.option(
    "--records",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of `edge-agent run --record FILE --record-hidden`, of one task.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="The head to write.",
)
@click.option(
    "--percent",
    default=50,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Part of the records to learn from; the others are left for calibration.",
)
@click.option("--task", help="Only this task's records.")
@json_option
def train_head_command(
    *, records: Path, output: Path, percent: int, task: str | None, as_json: bool
) -> None:
    """Teach the device which label a request has, from examples.

    For a model that was never shown the task: the head reads the model's hidden state in its place. Certificates made before
    are void, so record and calibrate again afterwards, with the head installed; what it learned from is left out by itself.
    """
    from partition.calibration.head_training import train_head

    with Console(stderr=True, quiet=as_json).status("Training"):
        tasks = by_task(read_records(records))
        if task is None and len(tasks) > 1:
            raise click.UsageError("A head is of one task: name it with --task.")
        name = next(iter(tasks)) if task is None else task
        if name not in tasks:
            known = ", ".join(repr(known) for known in tasks)
            raise CalibrationError(f"{records}: no records of task {name!r}; it has {known}")
        training = train_head(tasks[name], percent=percent)
    try:
        output.write_text(training.head.to_json(), encoding="utf-8")
    except OSError as error:
        raise CalibrationError(
            f"{output}: cannot be written ({type(error).__name__}); check the folder and its permissions"
        ) from error
    if as_json:
        print_json(
            {
                "task": name,
                "labels": list(training.head.labels),
                "num_records": training.head.num_records,
                "right": training.right,
                "right_before": training.right_before,
            }
        )
        return
    click.echo(
        f"{name}: {training.right:.1%} right on records that the head had not seen, in cross-validation; the model's own choice was "
        f"right in {training.right_before:.1%}. Learned from {training.head.num_records} records."
    )
    click.echo(f"Wrote {output}")
