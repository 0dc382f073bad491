"""``edge-agent sync`` and ``edge-agent golden``: fetch and try a release, go back, and make golden outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partition.console_script import FAILED, json_option, print_json, verbose_option

if TYPE_CHECKING:
    from edge_agent.config import EdgeConfig
    from partition.release.golden import GoldenPrompt

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.option("--config", "config_path", type=_FILE, help="TOML file with a [sync] section.")
@click.option("--rollback", is_flag=True, help="Go back to the release before; needs no network.")
@click.option("--status", "only_status", is_flag=True, help="Only say what runs; needs no network.")
@verbose_option
@json_option
def sync(config_path: Path | None, rollback: bool, only_status: bool, as_json: bool) -> None:
    """Fetch the release that this device shall run, check it, and try it.

    What runs goes on whatever happens; a running agent takes the new release over by itself.
    """
    from edge_agent.config import load_config
    from edge_agent.errors import ConfigError

    config = load_config(config_path)
    if rollback and only_status:
        raise click.UsageError("give --rollback or --status, not both")
    if only_status:
        _tell(_status(config), as_json)
        return
    if rollback:
        _tell(_roll_back(config), as_json)
        return
    if config.offline:
        raise ConfigError("this agent is offline; take `offline` out of the configuration to sync")
    found = _run_cycle(config)
    _tell(found, as_json)
    if found["error"]:
        raise click.exceptions.Exit(FAILED)


@click.command()
@click.argument("release", type=_FOLDER)
@click.option("--config", "config_path", type=_FILE, help="TOML file of the device.")
@click.option(
    "--prompts", required=True, type=_FILE, help='JSONL of {"id", "task", "text"}; made-up text.'
)
@click.option(
    "--base",
    type=_FOLDER,
    help="Folder of the release whose model and tasks RELEASE takes over: for an adapter.",
)
@click.option("--output", type=_FILE, help="Default: golden.json in the folder RELEASE.")
@verbose_option
@json_option
def golden(
    release: Path,
    config_path: Path | None,
    prompts: Path,
    base: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Answer PROMPTS with the model in the folder RELEASE and keep the answers as its golden outputs.

    Run it on a reference device; every device then compares its own answers before it tries the release.
    """
    from edge_agent.config import load_config
    from edge_agent.errors import ConfigError
    from edge_agent.sync.golden_run import RunSettings, answer_prompts
    from edge_agent.sync.release_layout import GOLDEN, model_of
    from partition.release.golden import Golden

    config = load_config(config_path)
    model = model_of(release) or (model_of(base) if base is not None else None)
    if model is None:
        raise ConfigError(f"{release}: no model.gguf and no folder `model`; put one there")
    asked = _read_prompts(prompts)
    answers = answer_prompts(
        release,
        asked,
        RunSettings(
            model=model,
            base=base,
            threads=config.model.threads,
            context_tokens=config.model.context_tokens,
            max_memory_mb=config.model.max_memory_mb,
            cache=config.cache_folder / "stages",
        ),
    )
    place = output or release / GOLDEN
    place.write_bytes(Golden(prompts=asked, answers=answers).to_bytes())
    _tell({"golden": str(place), "prompts": len(asked), "error": ""}, as_json)


def _run_cycle(config: EdgeConfig) -> dict[str, Any]:
    from edge_agent.sync.assembly import open_client
    from partition.progress_bar import ProgressBar

    bars: list[ProgressBar] = []
    done = 0

    def expect(total: int) -> None:
        bars.append(ProgressBar("release", total))

    def progress(size: int) -> None:
        nonlocal done
        done += size
        bars[-1].update(done)

    try:
        with open_client(config, progress=progress, expect=expect) as (client, _):
            client.observe(seconds=0.0, answers=0)  # of runs that have ended since
            result = client.run_cycle()
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)
    return {
        "running": result.running or "factory",
        "state": result.state.value if result.state is not None else "CONFIRMED",
        "wanted": result.wanted or "",
        "changed": result.changed,
        "fetched_bytes": result.fetched_bytes,
        "error": result.message,
        "error_kind": result.error_kind,
    }


def _roll_back(config: EdgeConfig) -> dict[str, Any]:
    from edge_agent.sync.journal_commands import roll_back_here
    from edge_agent.sync.running import sync_folder

    running = roll_back_here(sync_folder(config))
    return {"running": running or "factory", "error": ""}


def _status(config: EdgeConfig) -> dict[str, Any]:
    from edge_agent.sync.journal_commands import describe
    from edge_agent.sync.running import sync_folder

    return describe(sync_folder(config))


def _read_prompts(path: Path) -> tuple[GoldenPrompt, ...]:
    from pydantic import TypeAdapter, ValidationError

    from edge_agent.errors import InputError
    from edge_agent.jsonl import read_lines
    from partition.release.golden import GoldenPrompt

    adapter = TypeAdapter(GoldenPrompt)
    prompts = []
    for number, line in read_lines(path):
        try:
            prompts.append(adapter.validate_json(line))
        except ValidationError as error:
            raise InputError(
                f'{path}, line {number}: each line is {{"id", "task", "text"}}; correct it'
            ) from error
    if not prompts:
        raise InputError(f"{path}: no prompts; write at least one line")
    return tuple(prompts)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if value not in ("", None):
            click.echo(f"{name.replace('_', ' '):16} {value}", err=name == "error")
