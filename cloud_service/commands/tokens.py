"""``cloud-service tokens``: keys that sign short tokens, and tokens."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cloud_service.identity import Identity
from cloud_service.tenancy.roles import Role
from cloud_service.tenancy.tokens import MAX_LIFETIME_S, make_signing_key, sign_token
from partition.console_script import json_option, print_json


@click.group()
def tokens() -> None:
    """Make keys that sign tokens, and tokens that live for minutes."""


@tokens.command()
@click.argument("key_id")
@click.option(
    "--directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="For both halves; the public one, KEY_ID.pem, goes to `tenants.token_keys` of the service.",
)
@json_option
def key(key_id: str, directory: Path, as_json: bool) -> None:
    """Make the key pair KEY_ID. Two are valid at a time: add the new public half before the old one goes."""
    private, public = make_signing_key(directory, key_id)
    document = {"private_key": str(private), "public_key": str(public)}
    if as_json:
        print_json(document)
        return
    for name, path in document.items():
        click.echo(f"{name.replace('_', ' '):12} {path}")


@tokens.command()
@click.option(
    "--key",
    "key_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private half, KEY_ID.key.",
)
@click.option("--tenant", required=True, help="Who pays and owns the data.")
@click.option("--device", required=True, help="What connects.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="device")
@click.option("--minutes", type=click.IntRange(1, MAX_LIFETIME_S // 60), default=15)
@json_option
def issue(key_path: Path, tenant: str, device: str, role: str, minutes: int, as_json: bool) -> None:
    """Print a token; show it in `authorization` as `Bearer TOKEN`."""
    token = sign_token(
        key_path,
        Identity(tenant=tenant, device=device),
        Role(role),
        lifetime_s=60 * minutes,
        now=int(time.time()),
    )
    if as_json:
        print_json({"token": token, "expires_in_s": 60 * minutes})
    else:
        click.echo(token)
