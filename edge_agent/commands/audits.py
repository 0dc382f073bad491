"""``edge-agent audits``: how watched certificates stand, taking up a suspended one, and a person's judgement."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.errors import ConfigError, InputError
from partition.console_script import json_option, print_json
from partition.oversight.oversight import Oversight, Standing

if TYPE_CHECKING:
    from edge_agent.audit_desk import AuditCase
    from edge_agent.supervision import Supervision

_NAME_CHARACTERS = 8  # of a case's name, shown and asked for; more where that is not enough
_config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False)
)


@click.group(invoke_without_command=True)
@_config_option
@click.option(
    "--resume",
    metavar="TASK",
    help="Take the suspended certificate of a task up again.",
)
@json_option
@click.pass_context
def audits(
    context: click.Context, config_path: Path | None, resume: str | None, as_json: bool
) -> None:
    """Say what audits of local answers found, task by task."""
    if context.invoked_subcommand is not None:
        return
    oversight = _oversight(_open(config_path))
    oversight.expire_audits()
    if resume is not None:
        oversight.resume(resume)
    found = {task: oversight.standing(task) for task in oversight.tasks()}
    standings = {task: standing for task, standing in found.items() if standing is not None}
    adaptive = oversight.adaptive_tasks()
    if as_json:
        print_json(
            {
                "tasks": {task: asdict(standing) for task, standing in standings.items()},
                "adaptive": {
                    task: {
                        "threshold": state.threshold,
                        "max_error": state.max_error,
                        "num_local": state.num_local,
                        "num_pending": state.num_pending,
                        "excess_bound": state.excess_bound,
                    }
                    for task, state in adaptive.items()
                },
            }
        )
        return
    if not standings and not adaptive:
        click.echo("no certificate is watched yet; it is from the first start with one")
    for task, standing in standings.items():
        if task not in adaptive:
            click.echo(f"{task}: {_in_words(standing)}")
    for task, state in adaptive.items():
        click.echo(
            f"{task}: adaptive, long-run: answers from probability {state.threshold:.3f} stay local; after {state.num_local} of "
            f"them the error exceeds {state.max_error:.0%} by at most {state.excess_bound:.1%} on average; no confidence is "
            f"promised; {state.num_pending} audits wait"
        )


@audits.command("list")
@_config_option
@json_option
def list_cases(config_path: Path | None, as_json: bool) -> None:
    """Show the answers that wait for a person's judgement."""
    cases = _cases(_open(config_path))
    if as_json:
        waiting = [
            {"name": case.name, "task": case.task, "text": case.text, "answer": case.answer}
            for case in cases
        ]
        print_json({"waiting": waiting})
        return
    if not cases:
        click.echo("nothing waits for a judgement")
    for case in cases:
        hours = max(0.0, (time.time() - case.taken_s) / 3600)
        click.echo(f"{case.name[:_NAME_CHARACTERS]}  {case.task}, {hours:.0f} h ago")
        click.echo(f"  asked:    {case.text}")
        click.echo(f"  answered: {case.answer}")


@audits.command()
@click.argument("name")
@click.argument("judgement", type=click.Choice(["right", "wrong"]))
@_config_option
def judge(name: str, judgement: str, config_path: Path | None) -> None:
    """Say whether the answer NAME was right; the request is deleted from this device then.

    NAME is what `edge-agent audits list` shows in front of it.
    """
    supervision = _open(config_path)
    found = [case for case in _cases(supervision) if case.name.startswith(name)]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} answers wait under this name; copy it from `edge-agent audits list`"
        )
    oversight = _oversight(supervision)
    oversight.settle_named(found[0].name, 0.0 if judgement == "right" else 1.0)
    assert supervision.desk is not None  # it had the case
    supervision.desk.forget(found[0].name)
    standing = oversight.standing(found[0].task)
    words = _in_words(standing) if standing is not None else "noted"
    click.echo(f"{found[0].task}: {words}")


def _open(config_path: Path | None) -> Supervision:
    from edge_agent.assembly import KEY_FILE
    from edge_agent.config import load_config
    from edge_agent.keystore import KeyStore
    from edge_agent.supervision import open_supervision

    config = load_config(config_path)
    return open_supervision(config, KeyStore.open(config.state_folder / KEY_FILE))


def _oversight(supervision: Supervision) -> Oversight:
    if supervision.oversight is None:
        raise ConfigError(
            "nothing is audited here; set `rate = 0.02` in section [audit] of the configuration"
        )
    return supervision.oversight


def _cases(supervision: Supervision) -> tuple[AuditCase, ...]:
    oversight = _oversight(supervision)
    if supervision.desk is None:
        raise ConfigError(
            'the cloud judges the audits of this device; set `by = "person"` in section [audit] to judge them yourself'
        )
    oversight.expire_audits()
    return supervision.desk.cases(oversight.waiting_names())


def _in_words(standing: Standing) -> str:
    if standing.threshold is None:
        state = standing.why_suspended or "noted"
    else:
        state = (
            f"scores from {standing.threshold:.6g} stay local; {standing.num_errors:g} of {standing.num_audits} "
            f"audited answers were wrong (evidence {standing.e_value:.3g})"
        )
    waiting = f"; {standing.num_pending} audits wait" if standing.num_pending else ""
    warning = f"; {standing.drift_warning}" if standing.drift_warning else ""
    return state + waiting + warning
