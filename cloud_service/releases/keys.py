"""Keys that sign releases: made one by one, used one at a time, and never all in one place.

A private key is a PEM file (PKCS #8, mode 0600) that stays with its holder; the public half is a JSON file that may go
anywhere. A holder signs a staged metadata file and hands over only a small signature file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import CanonicalJSONSerializer

from cloud_service.errors import ReleaseKeyError
from partition.store.durable import create_private

PRIVATE_SUFFIX = ".pem"
PUBLIC_SUFFIX = ".pub.json"
SIGNATURE_SUFFIX = ".sig.json"


def make_key(folder: Path, name: str, passphrase: str | None = None) -> Path:
    """Make an Ed25519 key pair ``<name>.pem`` and ``<name>.pub.json``; returns the public file.

    Raises:
        ReleaseKeyError: A key of that name is there already; keys are never overwritten.
    """
    signer = CryptoSigner.generate_ed25519()
    private = load_pem_private_key(signer.private_bytes, None)
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}{PRIVATE_SUFFIX}"
    try:
        create_private(path, pem)
    except FileExistsError as error:
        raise ReleaseKeyError(f"{path}: there is a key already; choose another name") from error
    public = folder / f"{name}{PUBLIC_SUFFIX}"
    document = {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}
    public.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return public


def load_signer(path: Path, passphrase: str | None = None) -> CryptoSigner:
    """Read a private key.

    Raises:
        ReleaseKeyError: It cannot be read, or the passphrase is wrong or missing.
    """
    try:
        private = load_pem_private_key(
            path.read_bytes(), passphrase.encode() if passphrase else None
        )
        return CryptoSigner(private)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseKeyError(
            f"{path}: no private key, or the passphrase is wrong; give the .pem file of one key"
        ) from error


def load_public_key(path: Path) -> SSlibKey:
    """Read a public key.

    Raises:
        ReleaseKeyError: It cannot be read, or is no Ed25519 key.
    """
    try:
        document = _PublicKeyDocument.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ReleaseKeyError(f"{path}: no public key; give a {PUBLIC_SUFFIX} file") from error
    return SSlibKey(
        keyid=document.keyid,
        keytype=document.keytype,
        scheme=document.scheme,
        keyval={"public": document.keyval.public},
    )


def sign_file(staged: Path, signer: CryptoSigner) -> Path:
    """Sign a staged metadata file; writes ``<file>.<key>.sig.json`` beside it and returns its path.

    Raises:
        ReleaseKeyError: The file is no metadata.
    """
    metadata = load_metadata(staged)
    signature = signer.sign(CanonicalJSONSerializer().serialize(metadata.signed))
    path = staged.with_name(f"{staged.name}.{signature.keyid[:8]}{SIGNATURE_SUFFIX}")
    document = {"keyid": signature.keyid, "sig": signature.to_dict()["sig"]}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path


def add_signatures(metadata: Metadata[Any], paths: tuple[Path, ...]) -> None:
    """Add the holders' signatures; whether they are enough is the repository's question.

    Raises:
        ReleaseKeyError: A file is no signature.
    """
    for path in paths:
        try:
            document = _SignatureDocument.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ReleaseKeyError(f"{path}: no signature file; sign again") from error
        metadata.signatures[document.keyid] = Signature(document.keyid, document.sig)


def load_metadata(path: Path) -> Metadata[Any]:
    """Read a metadata file.

    Raises:
        ReleaseKeyError: It is missing or no metadata.
    """
    try:
        return Metadata.from_bytes(path.read_bytes())
    except (OSError, DeserializationError) as error:
        raise ReleaseKeyError(f"{path}: no metadata; stage it again") from error


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$", max_length=256)]


class _KeyValue(_Document):
    public: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _PublicKeyDocument(_Document):
    keyid: _Hex
    keytype: Annotated[str, Field(pattern=r"^ed25519$")]
    scheme: Annotated[str, Field(pattern=r"^ed25519$")]
    keyval: _KeyValue


class _SignatureDocument(_Document):
    keyid: _Hex
    sig: _Hex
