"""``edge-agent audits``: how watched certificates stand, and taking up a suspended one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edge_agent.errors import ConfigError
from partition.console_script import json_option, print_json
from partition.oversight.oversight import Standing


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--resume", metavar="TASK", help="Take the suspended certificate of a task up again.")
@json_option
def audits(config_path: Path | None, resume: str | None, as_json: bool) -> None:
    """Say what audits of local answers found, task by task."""
    from edge_agent.assembly import KEY_FILE, open_oversight
    from edge_agent.config import load_config
    from edge_agent.keystore import KeyStore

    config = load_config(config_path)
    oversight = open_oversight(config, KeyStore.open(config.state_folder / KEY_FILE))
    if oversight is None:
        raise ConfigError(
            "nothing is audited here; set `rate = 0.02` in section [audit] of the configuration"
        )
    oversight.expire_audits()
    if resume is not None:
        oversight.resume(resume)
    found = {task: oversight.standing(task) for task in oversight.tasks()}
    standings = {task: standing for task, standing in found.items() if standing is not None}
    if as_json:
        print_json({"tasks": {task: asdict(standing) for task, standing in standings.items()}})
        return
    if not standings:
        click.echo("no certificate is watched yet; it is from the first start with one")
    for task, standing in standings.items():
        click.echo(f"{task}: {_in_words(standing)}")


def _in_words(standing: Standing) -> str:
    if standing.threshold is None:
        state = standing.why_suspended
    else:
        state = (
            f"scores from {standing.threshold:.6g} stay local; {standing.num_errors:g} of {standing.num_audits} "
            f"audited answers were wrong (evidence {standing.e_value:.3g})"
        )
    waiting = f"; {standing.num_pending} audits wait" if standing.num_pending else ""
    warning = f"; {standing.drift_warning}" if standing.drift_warning else ""
    return state + waiting + warning
