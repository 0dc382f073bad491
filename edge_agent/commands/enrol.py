"""``edge-agent enrol`` and ``edge-agent renew``: this device's certificate, the first one and the next."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import click

from partition.console_script import json_option, print_json, verbose_option

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--cloud", required=True, help="host:port of the cloud, where devices without certificate go."
)
@click.option("--code", required=True, help="From `cloud-service devices enrol-code`.")
@click.option(
    "--config", "config_path", type=_FILE, help="TOML file; written where there is none yet."
)
@click.option("--directory", type=_FOLDER, help="For key and certificate; default: in the state.")
@verbose_option
@json_option
def enrol(
    cloud: str, code: str, config_path: Path | None, directory: Path | None, as_json: bool
) -> None:
    """Make a key, and get the certificate of this device for a one-time code. The key stays here.

    Repeat it when the network failed: the same code works again for the same key, while it lasts.
    """
    from edge_agent.config import load_config
    from edge_agent.enrolling import enrol_device
    from edge_agent.sync.device_name import device_id_of

    exists = config_path is not None and config_path.exists()
    config = load_config(config_path if exists else None)
    given = enrol_device(cloud, code, directory or config.state_folder / "identity")
    folder = given.folder
    section = _cloud_section(given.target, folder)
    if config_path is not None and not exists:
        with config_path.open("x", encoding="utf-8") as file:
            file.write(f"# Written by `edge-agent enrol`.\n{section}")
    document = {
        "device": device_id_of(folder.certificate),
        "target": given.target,
        "ca": str(folder.authority),
        "certificate": str(folder.certificate),
        "key": str(folder.key),
        "expires": _moment(folder.expires()),
    }
    if as_json:
        print_json(document)
        return
    click.echo(f"enrolled as {document['device']} until {document['expires']}")
    if config_path is None or exists:
        click.echo(f"Put this into the agent's configuration:\n\n{section}")


@click.command()
@click.option("--config", "config_path", type=_FILE, help="TOML file with the [cloud] section.")
@click.option("--now", "at_once", is_flag=True, help="Also where it is not yet time.")
@verbose_option
@json_option
def renew(config_path: Path | None, at_once: bool, as_json: bool) -> None:
    """Get the next certificate when two thirds of this one's life are over; `serve` does so by itself."""
    from edge_agent.config import load_config
    from edge_agent.enrolling import enrolled_folder, renew_device

    cloud = load_config(config_path).cloud
    is_renewed = renew_device(cloud, at_once=at_once)
    folder = enrolled_folder(cloud)
    document: dict[str, Any] = {"renewed": is_renewed, "expires": _moment(folder.expires())}
    if as_json:
        print_json(document)
    else:
        click.echo(
            f"{'renewed' if is_renewed else 'not yet due'}; good until {document['expires']}"
        )


def _cloud_section(target: str, folder: Any) -> str:
    values = {
        "target": target,
        "ca": str(folder.authority),
        "certificate": str(folder.certificate),
        "key": str(folder.key),
    }
    lines = (f"{name} = {json.dumps(value)}" for name, value in values.items())
    return "\n".join(("[cloud]", *lines, ""))


def _moment(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds")
