"""The ``partition`` command: measure, plan and prove, one sub-command a module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from partition.console_script import run_script
from partition.errors import PartitionError

_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    # name: module, attribute, help; a module is imported only when its command runs
    "advise": (
        "partition.advice.advise_command",
        "advise",
        "Local, cloud or hybrid: cost, break-even, factors, risks.",
    ),
    "plan": (
        "partition.planning.plan_command",
        "plan",
        "Which mode a task runs in on a measured device, and why.",
    ),
    "profile": (
        "partition.planning.profile_command",
        "profile",
        "Measure a model on this machine, for plan.",
    ),
    "calibrate": (
        "partition.calibration.calibrate_command",
        "calibrate",
        "From labelled answers to a certified threshold.",
    ),
    "train-head": (
        "partition.calibration.train_head_command",
        "train_head_command",
        "From labelled answers to a label head, for a model that does not know the task.",
    ),
}


class _LazyGroup(click.Group):
    """Sub-commands by name, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "partition":
                raise
            raise click.ClickException(
                f"`partition {cmd_name}` needs the package {error.name!r}; pip install 'tandem-llm[train]'"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own imports every command to read its help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group("partition", cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-llm")
def partition() -> None:
    """Measure, plan and prove how work is divided between a device and the cloud."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return run_script(partition, (PartitionError,), arguments)
