"""The server's side of mTLS; certificates are read again when their files change."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from cloud_service.config import TlsConfig
from cloud_service.errors import PkiError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    certificate: Path
    key: Path
    client_authority: Path

    def stamp(self) -> tuple[int, ...]:
        paths = (self.certificate, self.key, self.client_authority)
        return tuple(path.stat().st_mtime_ns for path in paths)

    def read(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=self.client_authority.read_bytes()
        )


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Make credentials that demand a client certificate of the configured authority.

    Raises:
        PkiError: A file is missing or cannot be read.
    """
    return _credentials(tls, require_client_authentication=True)


def backend_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Make credentials for callers without certificate, who must show a key or a token.

    Raises:
        PkiError: A file is missing or cannot be read.
    """
    if tls.certificate is None or tls.key is None or tls.client_authority is None:
        raise PkiError(
            "`backend_listen` needs the certificates of `tls`; keys travel encrypted only"
        )
    return _credentials(tls, require_client_authentication=False)


def _credentials(tls: TlsConfig, *, require_client_authentication: bool) -> grpc.ServerCredentials:
    assert tls.certificate is not None
    assert tls.key is not None
    assert tls.client_authority is not None
    files = _Files(certificate=tls.certificate, key=tls.key, client_authority=tls.client_authority)
    try:
        initial, stamp = files.read(), files.stamp()
    except OSError as error:
        raise PkiError(
            f"{error.filename}: cannot be read ({type(error).__name__}); run `cloud-service init DIR`, or correct `tls`"
        ) from error

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Called on a handshake. Whatever goes wrong, the last good pair serves on (ray #65390).
        nonlocal stamp
        try:
            if (now := files.stamp()) == stamp:
                return None
            fresh, stamp = files.read(), now
        except OSError as error:
            logger.warning("certificates cannot be read again: %s", type(error).__name__)
            return None
        logger.info("certificates were read again")
        return fresh

    # The stubs forget that None says "unchanged".
    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]
        require_client_authentication=require_client_authentication,
    )
