"""``cloud-service publish``: the key ceremony, releases, rotation of keys. Every offline signature is a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from partition.console_script import json_option, print_json, verbose_option

if TYPE_CHECKING:
    from cloud_service.releases.repository import ReleaseRepository

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_PUBLIC_KEY = click.Path(path_type=Path, dir_okay=False, exists=True)


def repository_options(function: F) -> F:
    """Add what every command on a repository takes."""
    for option in (
        click.option(
            "--repository", "folder", required=True, type=_FOLDER, help="Folder of the repository."
        ),
        click.option(
            "--online-keys",
            "online",
            type=_FOLDER,
            help="Folder of the online keys; default: online-keys beside the repository.",
        ),
        verbose_option,
        json_option,
    ):
        function = option(function)
    return function


def open_at(folder: Path, online: Path | None) -> ReleaseRepository:
    """Open the repository of the options."""
    from cloud_service.releases.publisher import open_repository

    return open_repository(folder, online or _beside(folder))


@click.group()
def publish() -> None:
    """Sign releases and publish them to the devices' repository."""


@publish.command()
@click.argument("name")
@click.option("--output", required=True, type=_FOLDER, help="Folder of the key's holder.")
@click.option(
    "--passphrase/--no-passphrase", default=True, help="Ask for one that protects the file."
)
@json_option
def key(name: str, output: Path, passphrase: bool, as_json: bool) -> None:
    """Make one offline key: NAME.pem stays with its holder, NAME.pub.json goes to the ceremony."""
    from cloud_service.releases.keys import load_public_key, make_key

    secret = _ask_new_passphrase() if passphrase else None
    public = make_key(output, name, secret)
    _tell({"public_key": str(public), "keyid": load_public_key(public).keyid}, as_json)


@publish.command()
@click.option("--root", "root", multiple=True, required=True, type=_PUBLIC_KEY)
@click.option("--targets", "targets", multiple=True, required=True, type=_PUBLIC_KEY)
@repository_options
def init(
    root: tuple[Path, ...],
    targets: tuple[Path, ...],
    folder: Path,
    online: Path | None,
    as_json: bool,
) -> None:
    """Hold the key ceremony: give the public keys of root (three) and targets (three); two of each sign."""
    from cloud_service.releases.keys import load_public_key
    from cloud_service.releases.publisher import begin_repository

    staged = begin_repository(
        open_at(folder, online),
        root=tuple(load_public_key(path) for path in root),
        targets=tuple(load_public_key(path) for path in targets),
        online=online or _beside(folder),
    )
    _tell({"sign": [str(path) for path in staged]}, as_json)


@publish.command()
@click.argument("staged", type=_PUBLIC_KEY)
@click.option("--key", "private", required=True, type=_PUBLIC_KEY, help="PEM file of the holder.")
@json_option
def sign(staged: Path, private: Path, as_json: bool) -> None:
    """Sign a STAGED metadata file with one offline key; writes a small signature file beside it."""
    from cloud_service.releases.keys import load_signer, sign_file

    secret = None
    if b"ENCRYPTED" in private.read_bytes():
        secret = click.prompt("Passphrase", hide_input=True, err=True)
    _tell({"signature": str(sign_file(staged, load_signer(private, secret)))}, as_json)


@publish.command()
@repository_options
def commit(folder: Path, online: Path | None, as_json: bool) -> None:
    """Publish what is staged and has enough signatures."""
    roles = open_at(folder, online).commit()
    _tell({"published": list(roles) or "nothing was staged"}, as_json)


@publish.command()
@click.argument("name")
@click.option("--tenant", "tenants", multiple=True, help="Whose devices may follow it; repeatable.")
@repository_options
def channel(
    name: str, tenants: tuple[str, ...], folder: Path, online: Path | None, as_json: bool
) -> None:
    """Say which tenants' devices may follow the channel NAME."""
    from cloud_service.fleet.channels import set_channel

    set_channel(folder, name, tenants)
    _tell({"channel": name, "tenants": list(tenants)}, as_json)


@publish.command()
@click.argument("name")
@click.option("--bundle", required=True, type=_FOLDER, help="Folder of the release's files.")
@click.option("--channel", "channels", multiple=True, required=True, help="Repeatable.")
@click.option("--fingerprint", default="", help="Of model, prompt, anonymizer and scorer.")
@click.option("--delta-from", "bases", multiple=True, help="Release that devices run now.")
@click.option("--base", help="Release whose model this one adapts; makes it an adapter release.")
@click.option("--over", help="Release whose files come along, except those in the bundle.")
@click.option("--min-runtime", default="0.1.0", show_default=True, help="Lowest device version.")
@click.option(
    "--floor", type=int, default=0, help="Counter below which no release is installed any more."
)
@click.option("--max-abs-logprob", type=float, default=0.05, show_default=True)
@click.option("--label-match", type=float, default=1.0, show_default=True)
@click.option("--p95-ratio", type=float, default=1.2, show_default=True)
@repository_options
def release(
    name: str,
    bundle: Path,
    channels: tuple[str, ...],
    fingerprint: str,
    bases: tuple[str, ...],
    base: str | None,
    over: str | None,
    min_runtime: str,
    floor: int,
    max_abs_logprob: float,
    label_match: float,
    p95_ratio: float,
    folder: Path,
    online: Path | None,
    as_json: bool,
) -> None:
    """Make the release NAME out of a folder and stage it for two signatures.

    Blobs and deltas are stored at once; devices see the release after `sign`, `sign` and `commit`.
    """
    from cloud_service.releases.publisher import ReleaseRequest, stage_release
    from partition.release.manifest import GateLimits, ReleaseKind

    if base is not None and over is not None:
        raise click.UsageError("give --base or --over, not both")
    request = ReleaseRequest(
        release=name,
        bundle=bundle,
        over=over,
        channels=channels,
        fingerprint=fingerprint,
        kind=ReleaseKind.FULL if base is None else ReleaseKind.ADAPTER,
        base_release=base,
        min_runtime=min_runtime,
        gate=GateLimits(
            max_abs_logprob=max_abs_logprob, label_match=label_match, p95_ratio=p95_ratio
        ),
        min_release_counter=floor,
        delta_bases=bases,
    )
    staged = stage_release(
        open_at(folder, online), request, progress=lambda text: click.echo(text, err=True)
    )
    deltas = {
        f"{delta.path} from {delta.base_sha256[:8]}": delta.blob.size_bytes
        for delta in staged.manifest.deltas
    }
    _tell(
        {
            "release": name,
            "release_counter": staged.manifest.release_counter,
            "files": len(staged.manifest.files),
            "bytes": staged.manifest.size_bytes,
            "delta_bytes": deltas,
            "sign": str(staged.path),
        },
        as_json,
    )


@publish.command("list")
@repository_options
def list_releases(folder: Path, online: Path | None, as_json: bool) -> None:
    """List the signed releases, and how long root and targets are still good."""
    from cloud_service.releases.publisher import days_left, read_manifest

    repository = open_at(folder, online)
    targets = repository.targets.signed
    found = []
    for path, target in targets.targets.items():
        manifest = read_manifest(repository, targets, path.split("/")[1])
        custom = target.unrecognized_fields["custom"]
        found.append(
            {
                "release": manifest.release,
                "counter": manifest.release_counter,
                "floor": custom["min_release_counter"],
                "channels": custom["channels"],
                "bytes": manifest.size_bytes,
            }
        )
    found.sort(key=lambda item: item["counter"])
    days = {role: left.days for role, left in days_left(repository).items()}
    if as_json:
        print_json({"releases": found, "days_left": days})
        return
    for item in found:
        click.echo(f"{item['counter']:5} {item['release']:24} {', '.join(item['channels'])}")
    click.echo(f"root is good for {days['root']} days, targets for {days['targets']}", err=True)


@publish.command()
@click.option(
    "--role",
    required=True,
    type=click.Choice(["root", "targets", "timestamp", "snapshot", "director"]),
)
@click.option("--remove", help="Key id, or its beginning, of the key that goes.")
@click.option("--add", type=_PUBLIC_KEY, help="Public key that comes.")
@repository_options
def rotate(
    role: str,
    remove: str | None,
    add: Path | None,
    folder: Path,
    online: Path | None,
    as_json: bool,
) -> None:
    """Stage a change of keys; root is signed by the old keys and the new ones."""
    from cloud_service.releases.keys import load_public_key
    from cloud_service.releases.publisher import stage_rotation

    if remove is None and add is None:
        raise click.UsageError("give --remove, --add or both")
    public = load_public_key(add) if add is not None else None
    staged = stage_rotation(open_at(folder, online), role, remove=remove, add=public)
    _tell({"sign": str(staged)}, as_json)


@publish.command()
@click.option("--role", required=True, type=click.Choice(["root", "targets"]))
@repository_options
def renew(role: str, folder: Path, online: Path | None, as_json: bool) -> None:
    """Stage a role unchanged with a later expiry, before it runs out."""
    from cloud_service.releases.publisher import stage_renewal

    _tell({"sign": str(stage_renewal(open_at(folder, online), role))}, as_json)


@publish.command()
@repository_options
def refresh(folder: Path, online: Path | None, as_json: bool) -> None:
    """Sign the timestamp again, and what else is half over; a running service does this hourly."""
    repository = open_at(folder, online)
    repository.refresh()
    _tell({"timestamp": repository.timestamp.signed.version}, as_json)


def _beside(folder: Path) -> Path:
    return folder.parent / "online-keys"


def _ask_new_passphrase() -> str:
    return str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, list):
            value = ", ".join(value)
        if value not in ("", {}):
            click.echo(f"{name.replace('_', ' '):16} {value}")
