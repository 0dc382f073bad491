"""The console script ``cloud-service``: exit code 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud_service.commands.devices import devices
from cloud_service.commands.fleet import fleet
from cloud_service.commands.publish import publish
from cloud_service.commands.tenants import tenants
from cloud_service.commands.tokens import tokens
from cloud_service.config import load_config
from cloud_service.errors import CloudServiceError
from cloud_service.identity import Identity
from partition.console_script import json_option, print_json, run_script, verbose_option
from partition.errors import PartitionError

if TYPE_CHECKING:
    from cloud_service.server import CloudServer, Endpoints

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-llm")
def cloud_service() -> None:
    """The cloud half of Tandem: answers what devices escalate."""


@cloud_service.command()
@click.argument("directory", type=_FOLDER)
@click.option("--host", "hosts", multiple=True, help="Name or address of the service; repeatable.")
@click.option("--tenant", default="demo", show_default=True, help="Tenant of the first device.")
@click.option("--device", default="device-1", show_default=True, help="Name of the first device.")
@json_option
@verbose_option
def init(directory: Path, hosts: tuple[str, ...], tenant: str, device: str, as_json: bool) -> None:
    """Make a development authority, the service's certificate, one device's, and cloud.toml in DIRECTORY.

    Nothing is ever overwritten. For a fleet, use your own authority.
    """
    from cloud_service.storage.private_file import write_private
    from cloud_service.tenancy import pki

    config = directory / "cloud.toml"
    if config.exists():
        raise CloudServiceError(f"{config}: exists already and is never overwritten; name another")
    folder = pki.create_authority(directory, hosts=hosts or pki.DEFAULT_HOSTS)
    pair = pki.issue_device(directory, Identity(tenant=tenant, device=device))
    write_private(config, _CONFIG_TEMPLATE.replace("TENANT", tenant).encode())
    document = {
        "config": str(config),
        "authority": str(folder.authority.certificate),
        "server_certificate": str(folder.server.certificate),
        "device_certificate": str(pair.certificate),
        "device_key": str(pair.key),
    }
    _tell(document, as_json)


@cloud_service.command()
@click.argument("directory", type=_FOLDER)
@click.option("--tenant", required=True, help="Who pays and owns the data.")
@click.option("--device", required=True, help="What connects.")
@click.option("--days", type=click.IntRange(1, 825), default=90, show_default=True)
@json_option
@verbose_option
def issue(directory: Path, tenant: str, device: str, days: int, as_json: bool) -> None:
    """Issue one more device certificate, signed by the authority in DIRECTORY.

    The service answers it once its tenant is admitted: `cloud-service tenants add`, or `tenants.admitted`.
    """
    from cloud_service.tenancy import pki

    pair = pki.issue_device(directory, Identity(tenant=tenant, device=device), days=days)
    _tell({"device_certificate": str(pair.certificate), "device_key": str(pair.key)}, as_json)


@cloud_service.command()
@click.option("--config", "config_path", type=_FILE, help="TOML file, for example of `init`.")
@click.option("--listen", help="host:port of the gRPC API; port 0 takes a free one.")
@click.option("--model", help="Name in the model store, GGUF file, or Hugging Face folder.")
@click.option("--state", type=_FOLDER, help="Folder of the state database and its master key.")
@click.option("--ready-file", type=_FILE, help="Write the JSON line about the ports here too.")
@click.option("--reflection", is_flag=True, help="Let clients list the services.")
@click.option("--offline", is_flag=True, help="Never fetch a model.")
@click.option(
    "--insecure-loopback", is_flag=True, help="No TLS; only on a loopback address, for tests."
)
@json_option
@verbose_option
def serve(
    config_path: Path | None,
    listen: str | None,
    model: str | None,
    state: Path | None,
    ready_file: Path | None,
    reflection: bool,
    offline: bool,
    insecure_loopback: bool,
    as_json: bool,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    When the model is warm, one JSON line on stdout says where: address, health, metrics, model, fingerprint.
    """
    flags: dict[str, Any] = {
        "listen": listen,
        "reflection": reflection or None,
        "model": _given(name=model, offline=offline or None),
        "state": _given(directory=state),
        "tls": _given(insecure_loopback=insecure_loopback or None),
    }
    config = load_config(config_path, flags=_given(**flags), environment=os.environ)

    from cloud_service.backends.choice import make_backend
    from cloud_service.logs import set_up_logs
    from cloud_service.server import serve as serve_until_signal
    from cloud_service.traces import set_up_traces

    set_up_logs(config.log_format)
    end_traces = set_up_traces(config.traces.endpoint, sample_ratio=config.traces.sample_ratio)

    def on_ready(server: CloudServer, endpoints: Endpoints) -> None:
        card = server.model_card
        document = {
            "event": "ready",
            "address": endpoints.address,
            "backend": endpoints.backend,
            "health": endpoints.health,
            "metrics": endpoints.metrics,
            "tls": not config.tls.insecure_loopback,
            "model": card.name,
            "fingerprint": card.fingerprint,
            "pid": os.getpid(),
        }
        if (
            ready_file is not None
        ):  # before the line on stdout: whoever reads that may look for the file
            staging = ready_file.with_name(ready_file.name + ".part")
            staging.write_text(json.dumps(document) + "\n", encoding="utf-8")
            staging.replace(ready_file)
        print_json(document)
        sys.stdout.flush()

    try:
        asyncio.run(serve_until_signal(config, make_backend=make_backend, on_ready=on_ready))
    finally:
        end_traces()


cloud_service.add_command(publish)
cloud_service.add_command(fleet)
cloud_service.add_command(tenants)
cloud_service.add_command(devices)
cloud_service.add_command(tokens)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns its exit code."""
    return run_script(cloud_service, (CloudServiceError, PartitionError), arguments)


_CONFIG_TEMPLATE = """\
# Written by `cloud-service init`. Paths are relative to this file.
listen = "127.0.0.1:7443"

[tls]
certificate = "server.crt"
key = "server.key"
client_authority = "ca.crt"

[model]
name = "qwen2.5-coder-1.5b-instruct"

[state]
directory = "state"

[tenants]
# Besides those of `cloud-service tenants add`. A certificate of the authority alone lets nobody in.
admitted = ["TENANT"]
"""


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, {})}


def _tell(document: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        click.echo(f"{key.replace('_', ' '):20} {value}")
