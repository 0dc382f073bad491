"""What a device is called in rollouts: TENANT/DEVICE, as its certificate says, and nothing it could choose itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509

LOOPBACK = "local/loopback"  # what a service without certificates calls everybody
_NAME = re.compile(r"([a-z0-9-]{1,63})\.([a-z0-9-]{1,63})\.device\.tandem\.internal")


def device_id_of(certificate: Path) -> str:
    """Read the name out of a device certificate.

    Raises:
        ConfigError: The file holds no certificate of a device.
    """
    from cryptography import x509

    try:
        names = (
            load_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
        (name,) = names.get_values_for_type(x509.DNSName)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            f"{certificate}: cannot be read as the certificate of one device; enrol the device again"
        ) from error
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"{certificate}: names no device; enrol the device again")
    return f"{match[2]}/{match[1]}"


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no certificate.
    """
    from cryptography import x509

    return x509.load_pem_x509_certificates(path.read_bytes())[0]
