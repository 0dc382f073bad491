"""The one-time code by which a device gets its first certificate: ``tne_<id>_<secret>_<pin>``, all hexadecimal.

The pin is the beginning of a digest of the authority that signed the server's certificate. A device that has nothing to trust
yet can so tell the operator's server from another one before it shows the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_ID_BYTES = 6
_SECRET_BYTES = 16  # guessed at ten a second, until the end of the universe
_PIN_BYTES = 16
_PATTERN = re.compile(r"tne_([0-9a-f]{12})_([0-9a-f]{32})_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """One code as the operator hands it over."""

    code_id: str
    secret: str = field(repr=False)
    pin: str

    @classmethod
    def new(cls, authority_pem: bytes) -> EnrolmentCode:
        """Make a random one for servers of an authority.

        Raises:
            ValueError: That is no certificate.
        """
        return cls(
            secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES), pin_of(authority_pem)
        )

    @classmethod
    def parse(cls, text: str) -> EnrolmentCode | None:
        """Read the written form; None when it is none."""
        match = _PATTERN.fullmatch(text)
        return None if match is None else cls(match[1], match[2], match[3])

    @property
    def text(self) -> str:
        """The written form; shown once, never logged."""
        return f"tne_{self.code_id}_{self.secret}_{self.pin}"

    def pins(self, authority_pem: bytes) -> bool:
        """Whether this is the authority that the code was made for.

        Raises:
            ValueError: That is no certificate.
        """
        return hmac.compare_digest(self.pin, pin_of(authority_pem))


def pin_of(authority_pem: bytes) -> str:
    """Digest of one or more certificates in PEM; white space and comments round them do not count.

    Raises:
        ValueError: That is no certificate.
    """
    digest = hashlib.sha256()
    for certificate in x509.load_pem_x509_certificates(authority_pem):
        digest.update(certificate.public_bytes(Encoding.DER))
    return digest.hexdigest()[: 2 * _PIN_BYTES]
