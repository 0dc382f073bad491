"""``partition calibrate``: read records, prove a threshold, write the certificate and the report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from partition.calibration.calibration import (
    Claim,
    Division,
    WhatIf,
    by_task,
    certify,
    divide,
    what_if,
)
from partition.calibration.certificate import Certificate, Procedure, Status, certificates_to_json
from partition.calibration.prompt_gate import PromptGate
from partition.calibration.records import read_records
from partition.calibration.scorer import Scorer
from partition.errors import CalibrationError
from partition.fingerprint import UNSCORED, Loss

_PROCEDURES = {"auto": None, "split": Procedure.SPLIT_FIXED_SEQUENCE, "sgr": Procedure.SGR}
_IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_OPEN_RATE = click.FloatRange(0.0, 1.0, min_open=True, max_open=True)


@click.command()
@click.option(
    "--records", required=True, type=_IN_FILE, help="Labelled answers, one JSON object a line."
)
@click.option(
    "--max-error",
    required=True,
    type=_OPEN_RATE,
    help="Highest error among local answers, as 0.05.",
)
@click.option(
    "--confidence", default=0.95, show_default=True, type=_OPEN_RATE, help="That the limit holds."
)
@click.option("--output", type=_OUT_FILE, help="The certificate to write.")
@click.option("--report", type=_OUT_FILE, help="A page for people to write: one HTML file.")
@click.option(
    "--try-threshold",
    multiple=True,
    type=float,
    help="What if this score were the threshold? Claims nothing.",
)
@click.option("--task", help="Only this task's records.")
@click.option(
    "--loss",
    type=click.Choice(Loss),
    default=Loss.ERROR,
    show_default=True,
    help="What `correct` was judged by.",
)
@click.option("--seed", type=int, help="Another division into dev and test.")
@click.option(
    "--procedure",
    type=click.Choice(tuple(_PROCEDURES)),
    default="auto",
    show_default=True,
    help="Fix before you look.",
)
@click.option(
    "--joint", is_flag=True, help="All tasks together at the confidence, not each by itself."
)
@click.option(
    "--scorer", "scorer_path", type=_IN_FILE, help="Score the records again from their features."
)
@click.option(
    "--train-scorer",
    type=_OUT_FILE,
    help="Train a scorer on the dev records first, and write it here.",
)
@click.option(
    "--gate", "gate_path", type=_IN_FILE, help="The gate that runs before the local model."
)
@click.option(
    "--train-gate",
    type=_OUT_FILE,
    help="Train such a gate on the dev records first, and write it here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def calibrate(
    *,
    records: Path,
    max_error: float,
    confidence: float,
    output: Path | None,
    report: Path | None,
    try_threshold: tuple[float, ...],
    task: str | None,
    loss: Loss,
    seed: int | None,
    procedure: str,
    joint: bool,
    scorer_path: Path | None,
    train_scorer: Path | None,
    gate_path: Path | None,
    train_gate: Path | None,
    as_json: bool,
) -> None:
    """From labelled answers to a certified threshold.

    Finds the lowest score at which local answers may stand, so that with the given confidence at most --max-error of
    them are wrong, and says so when there is none.
    """
    if output is None and not try_threshold and report is None:
        raise click.UsageError("Nothing to do: give --output, --report or --try-threshold.")
    if scorer_path is not None and train_scorer is not None:
        raise click.UsageError("Give --scorer or --train-scorer, not both.")
    if gate_path is not None and train_gate is not None:
        raise click.UsageError("Give --gate or --train-gate, not both.")
    console = Console(stderr=True, quiet=as_json)
    with console.status("Reading records"):
        divisions = _divisions(records, task, seed)
    learned = (train_scorer, gate_path, train_gate)
    if any(path is not None for path in learned) and len(divisions) > 1:
        raise click.UsageError("A scorer or gate is of one task: name it with --task.")
    delta = (1.0 - confidence) / (len(divisions) if joint else 1)
    claim = Claim(max_error=max_error, confidence=1.0 - delta if joint else confidence, loss=loss)
    scorer_sha256 = UNSCORED
    if scorer_path is not None or train_scorer is not None:
        with console.status("Scoring"):
            scorer_sha256, divisions = _scored(divisions, scorer_path, train_scorer)
    gate_sha256, said_of_gate = "", ""
    if gate_path is not None or train_gate is not None:
        with console.status("Gating"):
            gate_sha256, said_of_gate, division = _gated(
                divisions[0], gate_path, train_gate, max_error
            )
            divisions = (division,)
    with console.status("Calibrating"):
        certificates = tuple(
            certify(
                division,
                claim,
                procedure=_PROCEDURES[procedure],
                scorer_sha256=scorer_sha256,
                gate_sha256=gate_sha256,
            )
            for division in divisions
        )
    trials = [
        (division.task, what_if(division, claim, threshold))
        for division in divisions
        for threshold in try_threshold
    ]
    document = (
        certificates[0].to_json() if len(certificates) == 1 else certificates_to_json(certificates)
    )
    if output is not None:
        _write(output, document)
    if report is not None:
        with console.status("Drawing the report"):
            from partition.calibration.report import write_report

            write_report(report, divisions, certificates, try_threshold)
    if as_json:
        shown = json.loads(document)
        if trials:
            shown["what_if"] = [{"task": name} | asdict(what) for name, what in trials]
        click.echo(json.dumps(shown))
        return
    for certificate in certificates:
        click.echo(_in_words(certificate))
    if said_of_gate:
        click.echo(said_of_gate)
    for name, what in trials:
        click.echo(_trial_in_words(name, what, claim))
    for path in (output, report, train_scorer, train_gate):
        if path is not None:
            click.echo(f"Wrote {path}")


def _divisions(path: Path, task: str | None, seed: int | None) -> tuple[Division, ...]:
    tasks = by_task(read_records(path))
    if task is not None:
        if task not in tasks:
            known = ", ".join(repr(name) for name in tasks)
            raise CalibrationError(f"{path}: no records of task {task!r}; it has {known}")
        tasks = {task: tasks[task]}
    return tuple(divide(members, seed=seed) for members in tasks.values())


def _scored(
    divisions: tuple[Division, ...], scorer_path: Path | None, train_scorer: Path | None
) -> tuple[str, tuple[Division, ...]]:
    from partition.calibration.scorer_training import rescored, train_on_dev

    if train_scorer is not None:
        scorer, division = train_on_dev(divisions[0])
        _write(train_scorer, scorer.to_json())
        return scorer.sha256, (division,)
    assert scorer_path is not None  # one of the two was given
    scorer = Scorer.load(scorer_path)
    return scorer.sha256, tuple(
        replace(division, dev=rescored(division.dev, scorer), test=rescored(division.test, scorer))
        for division in divisions
    )


def _gated(
    division: Division, gate_path: Path | None, new_path: Path | None, max_error: float
) -> tuple[str, str, Division]:
    """Digest of the gate, what it does in words, and the records behind it."""
    from partition.calibration.gate_training import through, train_gate

    if new_path is not None:
        training = train_gate(division, max_error=max_error)
        _write(new_path, training.gate.to_json())
        words = (
            f"  The gate spares the local model {training.stopped:.1%} of the requests, and sends {training.lost:.1%} to the cloud "
            "that might have stayed. In the report they count as wrong answers of the device."
        )
        return training.gate.sha256, words, training.division
    assert gate_path is not None  # one of the two was given
    gate = PromptGate.load(gate_path)
    behind = replace(division, dev=through(division.dev, gate), test=through(division.test, gate))
    return gate.sha256, "", behind


def _write(path: Path, document: str) -> None:
    try:
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be written ({type(error).__name__}); check the folder and its permissions"
        ) from error


def _in_words(certificate: Certificate) -> str:
    name = f"{certificate.task}: " if certificate.task else ""
    lines = []
    if certificate.status is Status.CERTIFIED:
        lines.append(
            f"{name}certified. Threshold {certificate.threshold:.6g} keeps {certificate.local_share:.1%} local; "
            f"{certificate.errors:g} of {certificate.n} test answers there were wrong."
        )
    else:
        lines.append(f"{name}not certified at {certificate.max_error:.2%} error.")
    lines += [f"  {note}" for note in certificate.notes]
    lines.append("  What other limits would allow, all rows together at the confidence:")
    for row in certificate.frontier:
        at = f"at {row.threshold:.6g}" if row.threshold is not None else "not certified"
        lines.append(f"    {row.max_error:>4.0%} error: {row.local_share:>6.1%} local, {at}")
    return "\n".join(lines)


def _trial_in_words(task: str, what: WhatIf, claim: Claim) -> str:
    name = f"{task}: " if task else ""
    verdict = "would" if what.would_pass else "would not"
    observed = (
        "no error rate" if what.observed_error is None else f"{what.observed_error:.2%} wrong"
    )
    return (
        f"{name}what if the threshold were {what.threshold:.6g}? {what.local_share:.1%} local, {observed} "
        f"({what.errors:g} of {what.n}), at most {what.error_upper_bound:.2%} by the bound. It {verdict} have passed "
        f"{claim.max_error:.2%}, had it been the only one tried and chosen without these records."
    )
