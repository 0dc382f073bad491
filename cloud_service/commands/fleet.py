"""``cloud-service fleet``: what devices run, and rollouts by rings. Every step lands in the audit log with its actor."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cloud_service.commands.publish import open_at, repository_options
from partition.console_script import print_json

if TYPE_CHECKING:
    from cloud_service.fleet.fleet import Fleet

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def channel_options(function: F) -> F:
    """Add what every command on a channel takes."""
    function = repository_options(function)
    return click.option("--channel", required=True, help="Devices that run the same release.")(
        function
    )


def _actor_option(function: F) -> F:
    return click.option(
        "--actor", default=getpass.getuser, help="Who is written into the audit log."
    )(function)


@click.group()
def fleet() -> None:
    """Follow releases through the fleet, and hold or take back what is worse."""


@fleet.command()
@channel_options
def status(channel: str, folder: Path, online: Path | None, as_json: bool) -> None:
    """Say what the devices of a channel run, and how its rollout stands."""
    found = _run(folder, online, lambda fleet, tx: fleet.status(tx, channel))
    if as_json:
        print_json(found)
        return
    for name in ("base", "candidate", "state", "reason", "ring", "share_percent"):
        click.echo(f"{name.replace('_', ' '):16} {found[name] if found[name] is not None else '-'}")
    for name in ("verdicts", "devices"):
        counts = ", ".join(f"{key} {number}" for key, number in sorted(found[name].items()))
        click.echo(f"{name:16} {counts or '-'}")
    for entry in found["audit"]:
        click.echo(f"  {entry['action']:10} {entry['actor']:12} {entry['detail']}")


@fleet.command()
@click.argument("release")
@click.option(
    "--steps", default="1,10,50,100", show_default=True, help="Per cent of the devices, by ring."
)
@click.option("--soak-hours", type=float, default=24.0, show_default=True)
@click.option("--max-failure-rate", type=float, default=0.02, show_default=True)
@click.option("--false-abort", type=float, default=0.01, show_default=True)
@click.option(
    "--policy",
    "policy_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with a [rollout] section, instead of the options above.",
)
@_actor_option
@channel_options
def begin(
    release: str,
    steps: str,
    soak_hours: float,
    max_failure_rate: float,
    false_abort: float,
    policy_path: Path | None,
    actor: str,
    channel: str,
    folder: Path,
    online: Path | None,
    as_json: bool,
) -> None:
    """Begin the rollout of RELEASE; the first release of a channel goes to all at once."""
    from cloud_service.fleet.policy_file import load_policy
    from cloud_service.fleet.rollout import Policy

    policy = Policy(
        steps_percent=_percents(steps),
        soak_s=soak_hours * 3600,
        max_failure_rate=_share(max_failure_rate, "--max-failure-rate"),
        false_abort=_share(false_abort, "--false-abort"),
    )
    if policy_path is not None:
        policy = load_policy(policy_path)
    _act(
        folder,
        online,
        as_json,
        lambda fleet, tx: fleet.begin(tx, channel, release, policy, actor=actor),
    )


@fleet.command()
@_actor_option
@channel_options
def advance(actor: str, channel: str, folder: Path, online: Path | None, as_json: bool) -> None:
    """Open the next ring now, without waiting for the soak."""
    _act(folder, online, as_json, lambda fleet, tx: fleet.advance(tx, channel, actor=actor))


@fleet.command()
@_actor_option
@channel_options
def hold(actor: str, channel: str, folder: Path, online: Path | None, as_json: bool) -> None:
    """Have no further device begin."""
    _act(folder, online, as_json, lambda fleet, tx: fleet.hold(tx, channel, actor=actor))


@fleet.command()
@_actor_option
@channel_options
def resume(actor: str, channel: str, folder: Path, online: Path | None, as_json: bool) -> None:
    """Go on with the ring that was held."""
    _act(folder, online, as_json, lambda fleet, tx: fleet.resume(tx, channel, actor=actor))


@fleet.command()
@click.option("--to", help="Release to go back to; default: what ran before the rollout.")
@_actor_option
@channel_options
def rollback(
    to: str | None, actor: str, channel: str, folder: Path, online: Path | None, as_json: bool
) -> None:
    """Have every device of the channel go back."""
    _act(
        folder, online, as_json, lambda fleet, tx: fleet.roll_back(tx, channel, actor=actor, to=to)
    )


@fleet.command()
@click.argument("device")
@click.option("--release", help="Default: take the pin away.")
@_actor_option
@channel_options
def pin(
    device: str,
    release: str | None,
    actor: str,
    channel: str,
    folder: Path,
    online: Path | None,
    as_json: bool,
) -> None:
    """Have one DEVICE (TENANT/DEVICE) run one release, whatever the rings say."""
    desired = _run(
        folder, online, lambda fleet, tx: fleet.pin(tx, channel, device, release, actor=actor)
    )
    found = {"channel": channel, "version": desired.version, "pins": len(desired.pins)}
    if as_json:
        print_json(found)
    else:
        click.echo(f"{channel}: {found['pins']} pins")


def _act(
    folder: Path, online: Path | None, as_json: bool, work: Callable[[Fleet, Any], Any]
) -> None:
    rollout = _run(folder, online, work)
    found = {
        "channel": rollout.channel,
        "release": rollout.release,
        "base": rollout.base,
        "state": rollout.state.value,
        "ring": rollout.ring,
    }
    if as_json:
        print_json(found)
    else:
        click.echo(
            f"{rollout.channel}: {rollout.base} -> {rollout.release}, "
            f"{rollout.state.value}, ring {rollout.ring}"
        )


def _run(folder: Path, online: Path | None, work: Callable[[Fleet, Any], T]) -> T:
    from cloud_service.fleet.fleet import Fleet
    from cloud_service.fleet.release_service import open_fleet_store

    fleet = Fleet(open_at(folder, online))
    store = open_fleet_store(folder)
    try:
        return store.run_here(lambda connection: work(fleet, connection))
    finally:
        store.close()


def _percents(text: str) -> tuple[float, ...]:
    try:
        steps = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("write per cents with commas, as 1,10,50,100") from error
    if list(steps) != sorted(set(steps)) or not steps[0] > 0 or steps[-1] != 100:
        raise click.BadParameter("the per cents must grow and end with 100")
    return steps


def _share(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise click.BadParameter(f"{name} lies between 0 and 1")
    return value
