"""``cloud-service devices``: codes by which devices enrol, and an end to those that must not come in; works beside a running service."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud_service.commands.tenants import config_option, opened_register
from cloud_service.errors import PkiError
from cloud_service.identity import Identity
from partition.console_script import json_option, print_json

if TYPE_CHECKING:
    from cloud_service.config import CloudConfig
    from cloud_service.storage.state_store import StateStore
    from cloud_service.tenancy.devices import Devices

LONGEST_MINUTES = 24 * 60


@contextmanager
def _opened(config_path: Path) -> Iterator[tuple[StateStore, Devices, CloudConfig]]:
    from cloud_service.storage.envelope import load_master_key
    from cloud_service.tenancy.devices import Devices

    with opened_register(config_path) as (store, tenants, config):
        master_key = load_master_key(config.state.master_key_path)
        yield store, Devices(store, tenants, master_key), config


@click.group()
def devices() -> None:
    """Let devices in and shut them out, one by one."""


@devices.command("enrol-code")
@click.argument("tenant")
@click.argument("device")
@click.option(
    "--minutes",
    type=click.IntRange(1, LONGEST_MINUTES),
    default=15,
    show_default=True,
    help="How long it can be used.",
)
@config_option
@json_option
def enrol_code(tenant: str, device: str, minutes: int, config_path: Path, as_json: bool) -> None:
    """Print a code by which DEVICE of TENANT gets its certificate, once: `edge-agent enrol --code CODE`.

    A device that is enrolled again is known by its new certificate only.
    """
    with _opened(config_path) as (store, register, config):
        path = config.enrolment.server_authority or config.tls.client_authority
        if config.enrolment.key is None or path is None:
            raise PkiError(f"{config_path}: this service signs no certificates; set `enrolment`")
        try:
            authority = path.read_bytes()
            code = store.run_here(
                lambda connection: register.add_code(
                    connection,
                    Identity(tenant=tenant, device=device),
                    authority,
                    lifetime_s=60.0 * minutes,
                    now=time.time(),
                )
            )
        except (OSError, ValueError) as error:
            raise PkiError(
                f"{path}: cannot be read as certificates ({type(error).__name__}); correct `enrolment`"
            ) from error
    if as_json:
        print_json(
            {"tenant": tenant, "device": device, "code": code.text, "expires_in_s": 60 * minutes}
        )
        return
    click.echo(code.text)
    click.echo(f"Keep it: it is shown this once, and good for {minutes} minutes.", err=True)


@devices.command()
@click.argument("tenant")
@click.argument("device")
@config_option
@json_option
def revoke(tenant: str, device: str, config_path: Path, as_json: bool) -> None:
    """Refuse DEVICE of TENANT from now on: every certificate and token it has, and its running calls."""
    identity = Identity(tenant=tenant, device=device)
    with _opened(config_path) as (store, register, _):
        store.run_here(lambda connection: register.revoke(connection, identity, now=time.time()))
    if as_json:
        print_json({"tenant": tenant, "device": device, "active": False})
    else:
        click.echo(f"device {device} of {tenant} is refused within two seconds")


@devices.command("list")
@click.argument("tenant")
@config_option
@json_option
def list_devices(tenant: str, config_path: Path, as_json: bool) -> None:
    """Show the devices of TENANT that were enrolled or revoked here."""
    with _opened(config_path) as (store, register, _):
        found = store.run_here(lambda connection: register.list(connection, tenant))
    documents = [
        {
            "device": one.identity.device,
            "active": one.is_active,
            "serial": one.serial,
            "expires": None
            if one.expires is None
            else dt.datetime.fromtimestamp(one.expires, dt.UTC).isoformat(timespec="seconds"),
        }
        for one in found
    ]
    if as_json:
        print_json({"tenant": tenant, "devices": documents})
        return
    for document in documents:
        click.echo("  ".join(f"{key}={value}" for key, value in document.items()))
