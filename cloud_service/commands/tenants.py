"""``cloud-service tenants``: who may use the service; works beside a running one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cloud_service.tenancy.quotas import Quota
from cloud_service.tenancy.tenants import STANDARD_CLASS
from partition.console_script import json_option, print_json

if TYPE_CHECKING:
    from cloud_service.config import CloudConfig
    from cloud_service.storage.state_store import StateStore
    from cloud_service.tenancy.tenants import Tenants

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """Add the option that names the service's configuration."""
    return click.option(
        "--config",
        "config_path",
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="The service's TOML file.",
    )(function)


@contextmanager
def opened_register(config_path: Path) -> Iterator[tuple[StateStore, Tenants, CloudConfig]]:
    """Open a service's state, beside the service if it runs; yields the register of its tenants."""
    from cloud_service.config import load_config
    from cloud_service.storage.envelope import load_master_key
    from cloud_service.storage.state_store import StateStore, state_url
    from cloud_service.tenancy.tenants import make_tenants

    config = load_config(config_path, flags={}, environment=os.environ)
    config.state.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not exclusive: SQLite lets a command write beside the service.
    store = StateStore(state_url(config.state))
    try:
        master_key = load_master_key(config.state.master_key_path)
        yield store, make_tenants(store, master_key, config), config
    finally:
        store.close()


@click.group()
def tenants() -> None:
    """Register tenants, give them API keys and limits, and revoke them."""


@tenants.command()
@click.argument("name")
@click.option("--concurrent-calls", type=click.IntRange(0), help="At once; 0: no limit.")
@click.option("--requests-per-s", type=click.FloatRange(0), help="0: no limit.")
@click.option("--tokens-per-minute", type=click.IntRange(0), help="0: no limit.")
@click.option("--daily-micro-usd", type=click.IntRange(0), help="Budget a day; 0: no limit.")
@click.option(
    "--class",
    "service_class",
    default=STANDARD_CLASS,
    show_default=True,
    help="A word by which its latencies are told in the metrics.",
)
@config_option
@json_option
def add(
    name: str, config_path: Path, service_class: str, as_json: bool, **limits: float | None
) -> None:
    """Register NAME and print its API key, which is shown this once."""
    quota = Quota(**{key: value for key, value in limits.items() if value is not None})  # type: ignore[arg-type]
    with opened_register(config_path) as (store, register, _):
        key = store.run_here(
            lambda connection: register.add(connection, name, quota, service_class)
        )
    _show_key(name, key.text, as_json)


@tenants.command()
@click.argument("name")
@config_option
@json_option
def rotate(name: str, config_path: Path, as_json: bool) -> None:
    """Give NAME a new API key; the one before works until the next rotation."""
    with opened_register(config_path) as (store, register, _):
        key = store.run_here(lambda connection: register.rotate(connection, name))
    _show_key(name, key.text, as_json)


@tenants.command()
@click.argument("name")
@config_option
@json_option
def revoke(name: str, config_path: Path, as_json: bool) -> None:
    """Refuse NAME from now on: its keys, its tokens and its certificates."""
    with opened_register(config_path) as (store, register, _):
        store.run_here(lambda connection: register.revoke(connection, name))
    if as_json:
        print_json({"tenant": name, "active": False})
    else:
        click.echo(f"tenant {name} is refused within two seconds")


@tenants.command("list")
@config_option
@json_option
def list_tenants(config_path: Path, as_json: bool) -> None:
    """Show all registered tenants, their limits and today's bill."""
    with opened_register(config_path) as (store, register, _):
        rows = store.run_here(register.list)
    documents = [
        {
            "tenant": row.tenant.name,
            "active": row.tenant.is_active,
            "class": row.tenant.service_class,
            "keys": row.num_active_keys,
            "spent_micro_usd": row.tenant.spent_micro_usd,
            **asdict(row.tenant.quota),
        }
        for row in rows
    ]
    if as_json:
        print_json({"tenants": documents})
        return
    for document in documents:
        click.echo("  ".join(f"{key}={value}" for key, value in document.items()))


def _show_key(name: str, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"tenant": name, "api_key": text})
        return
    click.echo(text)
    click.echo("Keep it: it is shown this once.", err=True)
