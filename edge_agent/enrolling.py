"""This device's certificate from its first day on: enrolled with a code, renewed by itself while the agent serves."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.cloud.channel import TlsFiles
from edge_agent.cloud.enrolment import enrol, renew
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.identity_folder import IdentityFolder
from protos.errors import WireError

if TYPE_CHECKING:
    from edge_agent.config import CloudConfig

logger = logging.getLogger(__name__)

LOOK_EVERY_S = (
    3600.0  # at the date; a renewal that failed is tried again then, for weeks if need be
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What a device has after enrolment."""

    folder: IdentityFolder
    target: str  # host:port of the cloud from now on


def enrol_device(cloud: str, code: str, directory: Path) -> Enrolled:
    """Make a key in a folder, and get the certificate for it with a one-time code. Safe to repeat.

    Raises:
        ConfigError: The code, the address or the folder cannot be used.
        WireError: The cloud refuses, or cannot be reached.
    """
    folder = IdentityFolder(directory.absolute())
    with folder.locked():
        given = enrol(cloud, code, folder.signing_request())
        folder.install(given.certificate_pem, given.authority_pem)
    return Enrolled(folder=folder, target=given.target)


def renew_device(cloud: CloudConfig, *, at_once: bool = False) -> bool:
    """Get the next certificate where it is time; True when there is a new one.

    Args:
        cloud: As ``edge.toml`` says.
        at_once: Also where it is not yet time.

    Raises:
        ConfigError: There is no certificate that :func:`enrol_device` made.
        WireError: The cloud refuses, or cannot be reached.
    """
    folder = enrolled_folder(cloud)
    files = TlsFiles(ca=folder.authority, certificate=folder.certificate, key=folder.key)
    with folder.locked():
        if not at_once and not folder.is_due(dt.datetime.now(dt.UTC)):
            return False
        given = renew(cloud.target, files, folder.signing_request())
        folder.install(given.certificate_pem, given.authority_pem)
    logger.info("the device's certificate was renewed, until %s", folder.expires().isoformat())
    return True


def enrolled_folder(cloud: CloudConfig) -> IdentityFolder:
    """The folder behind a configuration.

    Raises:
        ConfigError: It names none, or files of another origin.
    """
    if cloud.certificate is None or cloud.ca is None or cloud.key is None:
        raise ConfigError("no certificate in [cloud]; run `edge-agent enrol` first")
    folder = IdentityFolder(cloud.certificate.parent.parent)
    if (folder.certificate, folder.key, folder.authority) != (
        cloud.certificate,
        cloud.key,
        cloud.ca,
    ):
        raise ConfigError(
            f"{cloud.certificate}: not made by `edge-agent enrol`, so it is renewed where it came from"
        )
    return folder


@contextlib.contextmanager
def kept_certificate(cloud: CloudConfig, *, look_every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Renew in time, in a thread of its own, as long as the block runs; does nothing for certificates of another origin."""
    try:
        enrolled_folder(cloud)
    except ConfigError:
        yield
        return
    stop = threading.Event()

    def keep() -> None:
        # At a random moment: a fleet that was switched on together must not renew together.
        while not stop.wait(look_every_s * random.uniform(0.5, 1.5)):  # noqa: S311
            try:
                renew_device(cloud)
            except (EdgeError, WireError) as error:
                logger.warning("the device's certificate is not renewed: %s", error)

    thread = threading.Thread(target=keep, name="tandem-certificate", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=1.0)
