"""A development certificate authority: enough for mTLS on a workbench, never the one of a fleet.

    DIR/ca.crt ca.key                       the authority
    DIR/server.crt server.key               this service, for localhost and 127.0.0.1
    DIR/devices/TENANT.DEVICE.crt .key      one per device; the name inside says who it is

Every file is 0600 and is created, never overwritten.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_service.errors import PkiError
from cloud_service.identity import Identity, is_label
from cloud_service.storage.private_file import write_private
from cloud_service.tenancy.certificates import certificate_builder, key_usage, sign_leaf

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # what clients of public authorities accept at most
DEVICE_DAYS = 90
DEFAULT_HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Where one certificate and its private key are."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateFolder:
    """The names of the files in a folder that :func:`create_authority` fills."""

    root: Path

    @property
    def authority(self) -> KeyPair:
        """The authority."""
        return KeyPair(certificate=self.root / "ca.crt", key=self.root / "ca.key")

    @property
    def server(self) -> KeyPair:
        """The service."""
        return KeyPair(certificate=self.root / "server.crt", key=self.root / "server.key")

    def device(self, identity: Identity) -> KeyPair:
        """One device."""
        stem = f"{identity.tenant}.{identity.device}"
        folder = self.root / "devices"
        return KeyPair(certificate=folder / f"{stem}.crt", key=folder / f"{stem}.key")


def create_authority(root: Path, *, hosts: Sequence[str] = DEFAULT_HOSTS) -> CertificateFolder:
    """Make an authority and the service's certificate for the given names and addresses.

    Raises:
        PkiError: One of the files exists already, or the folder cannot be written.
    """
    folder = CertificateFolder(root)
    _refuse_to_overwrite(folder.authority, folder.server)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tandem development authority")])
    builder = certificate_builder(
        subject=name, issuer=name, public_key=key.public_key(), days=AUTHORITY_DAYS
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write_pair(folder.authority, certificate, key)
    names = [_host_name(host) for host in hosts]
    _issue(folder, folder.server, names, ExtendedKeyUsageOID.SERVER_AUTH, SERVER_DAYS)
    return folder


def issue_device(
    root: Path,
    identity: Identity,
    *,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> KeyPair:
    """Make the certificate of one device, signed by the authority in ``root``.

    Args:
        root: The folder of :func:`create_authority`.
        identity: Who it will be.
        days: Until it expires.
        now: When it becomes valid; None: now.

    Raises:
        PkiError: The authority is missing, a name is no DNS label, or the device has a certificate already.
    """
    if not (is_label(identity.tenant) and is_label(identity.device)):
        raise PkiError(
            "tenant and device must each be one DNS label: up to 63 of a-z, 0-9 and inner hyphens"
        )
    folder = CertificateFolder(root)
    pair = folder.device(identity)
    _refuse_to_overwrite(pair)
    names: list[x509.GeneralName] = [x509.DNSName(identity.dns_name)]
    _issue(folder, pair, names, ExtendedKeyUsageOID.CLIENT_AUTH, days, now)
    return pair


def _issue(
    folder: CertificateFolder,
    pair: KeyPair,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    days: int,
    now: dt.datetime | None = None,
) -> None:
    authority, authority_key = _load_authority(folder.authority)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = sign_leaf(
        authority, authority_key, key.public_key(), names, usage, days=days, now=now
    )
    _write_pair(pair, certificate, key)


def _load_authority(pair: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise PkiError(
            f"{pair.certificate.parent}: no usable authority there ({type(error).__name__}); "
            "run `cloud-service init` on an empty folder first"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{pair.key}: not a key that this command makes; use your own authority")
    return certificate, key


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _refuse_to_overwrite(*pairs: KeyPair) -> None:
    for pair in pairs:
        for path in (pair.certificate, pair.key):
            if path.exists():
                raise PkiError(f"{path}: exists already and is never overwritten; name another")


def _write_pair(
    pair: KeyPair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    write_private(
        pair.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    write_private(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
