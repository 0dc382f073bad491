"""A device's request for a certificate: read with suspicion, and for two things only, its public key and that the sender holds it."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from protos.errors import InvalidRequestError

MAX_BYTES: Final = 2048  # one of ours has 250
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)  # of which gRPC's TLS takes client certificates


def public_key_of(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a PKCS #10 request whose signature shows that the sender has its private half.

    Who the device is comes from its code or its present certificate. A request that names anything itself, or wishes for an
    extension, is refused rather than read: there is no honest reason for either.

    Raises:
        InvalidRequestError: It is no such request.
    """
    refused = InvalidRequestError(
        "`signing_request` must be PKCS #10 in DER, of a P-256 or P-384 key, without names and attributes"
    )
    if not 0 < len(signing_request) <= MAX_BYTES:
        raise refused
    try:
        request = x509.load_der_x509_csr(signing_request)
        names, attributes = list(request.subject), list(request.attributes)
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise refused from None
    if names or attributes:
        raise refused
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise refused
    try:
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise refused from None
    if not is_signed:
        raise refused
    return key
