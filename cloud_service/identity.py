"""Who is calling: tenant and device, from the client certificate and from nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from protos.errors import UnauthenticatedError

DEVICE_DOMAIN = "device.tandem.internal"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"  # one DNS label, RFC 1035 section 2.3.1
_LABEL_PATTERN = re.compile(_LABEL)
_NAME_PATTERN = re.compile(rf"({_LABEL})\.({_LABEL})\.{re.escape(DEVICE_DOMAIN)}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who pays and owns the data, and what is connected. Every record carries both."""

    tenant: str
    device: str

    @property
    def dns_name(self) -> str:
        """The subject alternative name that says this, as it stands in a device's certificate."""
        return f"{self.device}.{self.tenant}.{DEVICE_DOMAIN}"


LOOPBACK_IDENTITY = Identity(tenant="local", device="loopback")  # where there are no certificates


def is_label(text: str) -> bool:
    """Tell whether a text may name a tenant or a device: one DNS label in lower case."""
    return _LABEL_PATTERN.fullmatch(text) is not None


def identity_of(names: Iterable[bytes]) -> Identity:
    """Read the identity out of the subject alternative names of a verified certificate.

    Args:
        names: All of them, as gRPC's ``x509_subject_alternative_name`` property lists them.

    Raises:
        UnauthenticatedError: There is not exactly one name, or it is not of the one form that is accepted.
    """
    found = list(names)
    if len(found) != 1:
        raise UnauthenticatedError(
            "the client certificate must hold exactly one subject alternative name; enrol the device again"
        )
    try:
        match = _NAME_PATTERN.fullmatch(found[0].decode("ascii"))
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise UnauthenticatedError(
            f"the client certificate does not name a device as DEVICE.TENANT.{DEVICE_DOMAIN}; enrol the device again"
        )
    return Identity(tenant=match[2], device=match[1])
