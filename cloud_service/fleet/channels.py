"""Which tenants' devices may follow a channel, and so read its releases: ``channels.json`` of the repository."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloud_service.errors import RepositoryError
from cloud_service.identity import is_label
from partition.release.desired import CHANNEL_PATTERN

_FILE = "channels.json"


def tenants_of_channels(folder: Path) -> dict[str, frozenset[str]]:
    """Read every channel with its tenants.

    Raises:
        RepositoryError: The file is malformed.
    """
    try:
        document = _ChannelsDocument.model_validate_json((folder / _FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise RepositoryError(
            f"{folder / _FILE}: malformed; restore it, or name the channels again with "
            "`cloud-service publish channel`"
        ) from error
    return {name: frozenset(tenants) for name, tenants in document.channels.items()}


def set_channel(folder: Path, channel: str, tenants: tuple[str, ...]) -> None:
    """Say which tenants a channel has; none takes the channel from everybody.

    Raises:
        RepositoryError: A name is no name of a channel or tenant.
    """
    wrong = [tenant for tenant in tenants if not is_label(tenant)]
    if wrong:
        raise RepositoryError(
            f"{wrong[0]!r} is no tenant; use lower-case letters, digits and hyphens"
        )
    channels = {name: sorted(members) for name, members in tenants_of_channels(folder).items()}
    channels[channel] = sorted(set(tenants))
    try:
        _ChannelsDocument(channels=channels)
    except ValidationError as error:
        raise RepositoryError(
            f"{channel!r} is no channel; use lower-case letters, digits and hyphens"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", delete=False) as file:
        json.dump({"channels": channels}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(folder / _FILE)


class _ChannelsDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)
    channels: dict[Annotated[str, Field(pattern=CHANNEL_PATTERN)], list[str]]
