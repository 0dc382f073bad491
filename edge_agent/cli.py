"""The console script ``edge-agent``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_agent.commands.anonymize import anonymize
from edge_agent.commands.audits import audits
from edge_agent.commands.enrol import enrol, renew
from edge_agent.commands.models import models
from edge_agent.commands.profile import profile
from edge_agent.commands.sync import golden, sync
from edge_agent.errors import EdgeError
from partition.console_script import json_option, print_json, run_script, verbose_option
from partition.errors import PartitionError
from protos.errors import WireError

if TYPE_CHECKING:
    from edge_agent.agent import EdgeAgent
    from edge_agent.flow import Answer

F = TypeVar("F", bound=Callable[..., Any])


def agent_options(function: F) -> F:
    """Add what every command that makes an agent takes."""
    for option in (
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path, dir_okay=False),
            help="TOML file; without it the defaults and TANDEM_EDGE_ variables hold.",
        ),
        click.option("--offline", is_flag=True, help="Ask nobody: no cloud, no source of models."),
        verbose_option,
    ):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-llm")
def edge_agent() -> None:
    """Answer language-model requests on this device, and in the cloud what it cannot answer safely."""


@edge_agent.command()
@click.argument("text")
@click.option("--task", help="Name of the task; default: the configured one.")
@agent_options
@json_option
def ask(
    text: str, task: str | None, config_path: Path | None, offline: bool, as_json: bool
) -> None:
    """Answer one request; TEXT may be - for standard input."""
    from edge_agent.batch import read_single
    from edge_agent.jsonl import answer_line

    question = read_single(text, sys.stdin.buffer)
    with _open_agent(config_path, offline) as agent:
        if as_json:
            print_json(answer_line(None, agent.ask(question, task=task)))
            return
        answer: Answer | None = None
        for piece in agent.stream(question, task=task):
            if isinstance(piece, str):
                click.echo(piece, nl=False)
            else:
                answer = piece
        assert answer is not None
        sure = "none" if answer.confidence is None else f"{answer.confidence:.2f}"
        click.echo()
        click.echo(
            f"[{answer.route}] {answer.reason}; confidence {sure}; "
            f"{sum(answer.num_replaced.values())} identifiers replaced; {answer.sent_bytes} bytes sent; "
            f"{answer.latency_ms['total']:.0f} ms",
            err=True,
        )


@edge_agent.command()
@click.option("--task", help="Task of the lines that name none; default: the configured one.")
@click.option(
    "--input", "source", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write records for `partition calibrate`: the input needs a `label`.",
)
@click.option(
    "--record-hidden",
    is_flag=True,
    help="Put hidden states into the records, for a better scorer; keep and delete them like the requests.",
)
@click.option(
    "--parallel",
    default=8,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Requests under way at once.",
)
@click.option("--resume", is_flag=True, help="Go on behind the last whole line of the output.")
@agent_options
@json_option
def run(
    task: str | None,
    source: Path,
    output: Path,
    record: Path | None,
    record_hidden: bool,
    parallel: int,
    resume: bool,
    config_path: Path | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Answer every line of a JSONL file.

    IN: {"id", "text" | "messages" | "dicom"}. OUT: one line for each, also for failures ("error").
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from edge_agent.batch import run_batch
    from edge_agent.jsonl import read_lines

    total = sum(1 for _ in read_lines(source))
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        _open_agent(config_path, offline) as agent,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        bar = progress.add_task("", total=total)
        summary = run_batch(
            agent,
            task=task or agent.default_task,
            source=source,
            output=output,
            parallel=parallel,
            resume=resume,
            record=record,
            record_hidden=record_hidden,
            on_line=lambda: progress.advance(bar),
        )
    if as_json:
        print_json(asdict(summary))
        return
    shares = ", ".join(f"{route} {number}" for route, number in sorted(summary.routes.items()))
    click.echo(
        f"{summary.num_lines} lines: {shares or 'no answers'}, {summary.num_errors} errors -> {output}"
    )


@edge_agent.command()
@click.option("--host", help="Address to listen on; default: loopback.")
@click.option("--port", type=click.IntRange(0, 65535), help="0: any free one; default: 8010.")
@agent_options
def serve(host: str | None, port: int | None, config_path: Path | None, offline: bool) -> None:
    """Serve the OpenAI-compatible HTTP API on this machine."""
    from edge_agent.config import load_config
    from edge_agent.http_api.server import serve_http

    http = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    flags: dict[str, Any] = {"http": http} if http else {}
    if offline:
        flags["offline"] = True
    serve_http(
        load_config(config_path, flags=flags),
        on_ready=lambda url: click.echo(f"listening on {url}/v1", err=True),
    )


@edge_agent.command()
@agent_options
@json_option
def status(config_path: Path | None, offline: bool, as_json: bool) -> None:
    """Say which model, tasks and certificates this device has, and what waits for the cloud."""
    with _open_agent(config_path, offline) as agent:
        found = asdict(agent.status())
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"{name.replace('_', ' '):16} {shown or '-'}")


edge_agent.add_command(anonymize)
edge_agent.add_command(audits)
edge_agent.add_command(enrol)
edge_agent.add_command(models)
edge_agent.add_command(profile)
edge_agent.add_command(renew)
edge_agent.add_command(sync)
edge_agent.add_command(golden)


def main() -> None:
    """Run the script; the exit code is 0 done, 1 failed, 2 wrong usage."""
    sys.exit(run_script(edge_agent, (EdgeError, PartitionError, WireError)))


def _open_agent(config_path: Path | None, offline: bool) -> EdgeAgent:
    from edge_agent.agent import EdgeAgent

    return EdgeAgent.from_config(config_path, **({"offline": True} if offline else {}))
