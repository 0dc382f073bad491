"""A device's key and certificate on disk. The key is made here and never leaves; key, certificate and authority change as one.

FOLDER/current -> <serial>      a link; replaced in one step, so a reader sees the old three files or the new three
FOLDER/<serial>/device.key      0600
FOLDER/<serial>/device.crt ca.crt
FOLDER/pending/device.key request.der    between asking and getting; asked again with the same request
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError
from edge_agent.sync.device_name import device_id_of, load_certificate
from partition.store.durable import create_private, sync_folder

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

RENEW_AFTER = 2 / 3  # of the lifetime
LOCK_S = 30.0  # for another process that renews
_CURRENT, _PENDING = "current", "pending"
_KEY, _CERTIFICATE, _AUTHORITY, _REQUEST = "device.key", "device.crt", "ca.crt", "request.der"


class IdentityFolder:
    """Owner of one folder. Use it in one process at a time: :meth:`locked`."""

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is read or made."""
        self.root = root

    @property
    def key(self) -> Path:
        """The key in use."""
        return self.root / _CURRENT / _KEY

    @property
    def certificate(self) -> Path:
        """The certificate in use."""
        return self.root / _CURRENT / _CERTIFICATE

    @property
    def authority(self) -> Path:
        """By what the cloud is verified."""
        return self.root / _CURRENT / _AUTHORITY

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            ConfigError: One of them takes too long, or the folder cannot be made.
        """
        from filelock import FileLock, Timeout

        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=LOCK_S):
                yield
        except Timeout as error:
            raise ConfigError(
                f"{self.root}: another process enrols this device; wait for it"
            ) from error

    def signing_request(self) -> bytes:
        """The request for a certificate, PKCS #10 in DER; made with a fresh key unless one is pending.

        Raises:
            ConfigError: The folder cannot be written.
        """
        pending = self.root / _PENDING
        with contextlib.suppress(OSError, ValueError):
            _load_key(pending / _KEY)
            return (pending / _REQUEST).read_bytes()
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        # No name: who this is, the cloud knows from the code or the certificate, and believes nothing else.
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        content = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with _told(self.root):
            shutil.rmtree(pending, ignore_errors=True)
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            pending.mkdir(mode=0o700)
            _write(pending / _KEY, private)
            _write(pending / _REQUEST, content)
        return content

    def install(self, certificate_pem: bytes, authority_pem: bytes) -> None:
        """Take a certificate for the pending key into use, in one step; the one before stays on disk until the next.

        Raises:
            ConfigError: It is not for that key, or is of no device; or the folder cannot be written. What was in use stays.
        """
        pending = self.root / _PENDING
        with _told(self.root):
            _write(pending / _CERTIFICATE, certificate_pem)
            _write(pending / _AUTHORITY, authority_pem)
        try:
            certificate = load_certificate(pending / _CERTIFICATE)
            fits = certificate.public_key() == _load_key(pending / _KEY).public_key()
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the cloud's reply holds no certificate; enrol the device again"
            ) from error
        if not fits:
            raise ConfigError("the cloud's certificate is for another key; enrol the device again")
        device_id_of(pending / _CERTIFICATE)
        home = self.root / f"{certificate.serial_number:x}"
        with _told(self.root):
            (pending / _REQUEST).unlink(missing_ok=True)
            pending.rename(home)
            before = self._home()
            link = self.root / f".{_CURRENT}"
            link.unlink(missing_ok=True)
            link.symlink_to(home.name)
            link.replace(self.root / _CURRENT)
            sync_folder(self.root)
            for path in self.root.iterdir():
                if path.is_dir() and not path.is_symlink() and path not in (home, before):
                    shutil.rmtree(path, ignore_errors=True)

    def expires(self) -> dt.datetime:
        """When the certificate in use runs out.

        Raises:
            ConfigError: There is none.
        """
        return self._certificate().not_valid_after_utc

    def is_due(self, now: dt.datetime) -> bool:
        """Whether it is time for the next certificate: two thirds of this one's life are over.

        Raises:
            ConfigError: There is none.
        """
        certificate = self._certificate()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now >= begins + RENEW_AFTER * (ends - begins)

    def _certificate(self) -> x509.Certificate:
        try:
            return load_certificate(self.certificate)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.certificate}: cannot be read as a certificate; run `edge-agent enrol`"
            ) from error

    def _home(self) -> Path | None:
        link = self.root / _CURRENT
        return self.root / link.readlink() if link.is_symlink() else None


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("not a key of ours")
    return key


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    create_private(path, content)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{root}: cannot be written ({error.strerror}); correct its owner, or name another --directory"
        ) from error
