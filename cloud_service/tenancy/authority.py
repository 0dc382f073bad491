"""The authority that signs devices' certificates while the service runs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_service.errors import PkiError
from cloud_service.identity import Identity
from cloud_service.tenancy.certificates import sign_leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One certificate of one device."""

    pem: str  # with its chain, without the root
    serial: str  # hexadecimal
    expires: float  # Unix seconds


class DeviceAuthority:
    """Signs. Give it an intermediate certificate for devices alone: whoever takes its key can make devices, of any tenant."""

    def __init__(self, certificate: Path, key: Path, *, trusted: Path) -> None:
        """Read and check the pair.

        Args:
            certificate: Of the authority, PEM.
            key: Its private key, PEM, on P-256 or P-384.
            trusted: The authorities by which this service verifies devices.

        Raises:
            PkiError: A file cannot be read, the two do not belong together, or the service would not accept what they sign.
        """
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = load_pem_private_key(key.read_bytes(), password=None)
            roots = x509.load_pem_x509_certificates(trusted.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise PkiError(
                f"{certificate}: authority or key cannot be read ({type(error).__name__}); correct `enrolment`"
            ) from error
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise PkiError(f"{key}: devices' certificates are signed with a P-256 or P-384 key")
        if private.public_key() != self._certificate.public_key():
            raise PkiError(f"{certificate} and {key} do not belong together; correct `enrolment`")
        if not _is_authority(self._certificate):
            raise PkiError(f"{certificate}: not an authority's certificate; correct `enrolment`")
        if not any(_vouches(root, self._certificate) for root in roots):
            raise PkiError(
                f"{certificate}: not of `tls.client_authority`, so its devices would be refused; add it there"
            )
        self._key = private
        is_root = self._certificate.issuer == self._certificate.subject
        self._chain = "" if is_root else _pem(self._certificate)

    def certify(
        self,
        public_key: ec.EllipticCurvePublicKey,
        identity: Identity,
        *,
        days: int,
        now: dt.datetime | None = None,
    ) -> IssuedCertificate:
        """Sign one device's certificate; it ends with the authority's own at the latest."""
        now = now or dt.datetime.now(dt.UTC)
        left_days = (self._certificate.not_valid_after_utc - now).days
        if left_days < 1:
            raise PkiError("the authority's certificate has run out; renew it")
        certificate = sign_leaf(
            self._certificate,
            self._key,
            public_key,
            [x509.DNSName(identity.dns_name)],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            days=min(days, left_days),
            now=now,
        )
        return IssuedCertificate(
            pem=_pem(certificate) + self._chain,
            serial=serial_of(certificate),
            expires=certificate.not_valid_after_utc.timestamp(),
        )


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as it is stored and shown."""
    return f"{certificate.serial_number:x}"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def _vouches(root: x509.Certificate, certificate: x509.Certificate) -> bool:
    if root == certificate:
        return True
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
