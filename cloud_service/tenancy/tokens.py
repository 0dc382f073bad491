"""Short-lived tokens beside or instead of a certificate: JWT, EdDSA only, known by the id of their key.

Claims: ``aud`` is :data:`AUDIENCE`, ``exp`` at most 15 minutes after ``iat``, ``tenant`` and ``device`` say who, ``role`` as what.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from cloud_service.errors import PkiError
from cloud_service.identity import Identity, is_label
from cloud_service.storage.private_file import write_private
from cloud_service.tenancy.roles import Role
from protos.errors import UnauthenticatedError

AUDIENCE = "tandem"
MAX_LIFETIME_S = 900
LEEWAY_S = 60
_ROLES = frozenset(role.value for role in Role)
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TokenVerifier:
    """Checks tokens against a folder of public keys, ``<key id>.pem``; several are valid at a time."""

    def __init__(self, folder: Path | None) -> None:
        """Read the keys.

        Raises:
            PkiError: The folder or a key in it cannot be read, or is of another kind.
        """
        self._keys: dict[str, Ed25519PublicKey] = {}
        if folder is None:
            return
        try:
            for path in sorted(folder.glob("*.pem")):
                key = load_pem_public_key(path.read_bytes())
                if not isinstance(key, Ed25519PublicKey):
                    raise PkiError(f"{path}: not an Ed25519 public key; make one and name it so")
                self._keys[path.stem] = key
        except (OSError, ValueError) as error:
            raise PkiError(
                f"{folder}: a public key cannot be read ({type(error).__name__}); correct `tenants.token_keys`"
            ) from error

    def read(self, token: str) -> tuple[Identity, Role]:
        """Who a token says is calling, and as what.

        Raises:
            UnauthenticatedError: It is malformed, expired, for another audience, or of no known key.
        """
        refused = UnauthenticatedError("the token is not valid here; get a fresh one")
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
                raise refused
            key = self._keys.get(key_id)
            if key is None:
                raise refused
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "aud", "tenant", "device", "role"]},
            )
        except jwt.InvalidTokenError:
            raise refused from None
        tenant, device, role = claims["tenant"], claims["device"], claims["role"]
        is_short = claims["exp"] - claims["iat"] <= MAX_LIFETIME_S
        names_ok = isinstance(tenant, str) and isinstance(device, str)
        if not (is_short and names_ok and is_label(tenant) and is_label(device)):
            raise refused
        if not isinstance(role, str) or role not in _ROLES:
            raise refused
        return Identity(tenant=tenant, device=device), Role(role)


def make_signing_key(folder: Path, key_id: str) -> tuple[Path, Path]:
    """Make a pair of keys, ``<key id>.key`` and ``<key id>.pem``; returns where they are.

    Raises:
        PkiError: The id is none, or a file exists or cannot be written.
    """
    if _KEY_ID.fullmatch(key_id) is None or key_id.startswith("."):
        raise PkiError("a key's id has up to 64 letters, digits, dots, hyphens and underscores")
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{key_id}.key", folder / f"{key_id}.pem"
    write_private(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    write_private(
        public,
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    return private, public


def sign_token(path: Path, identity: Identity, role: Role, *, lifetime_s: int, now: int) -> str:
    """Make a token.

    Args:
        path: The private half; its name says the key's id.
        identity: Who will call.
        role: As what.
        lifetime_s: At most :data:`MAX_LIFETIME_S`.
        now: Unix seconds.

    Raises:
        PkiError: The key cannot be read, a name is no DNS label, or the lifetime is too long.
    """
    if not (is_label(identity.tenant) and is_label(identity.device)):
        raise PkiError("tenant and device must each be one DNS label; correct them")
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise PkiError(f"a token lives for {MAX_LIFETIME_S} s at most; ask for less")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise PkiError(
            f"{path}: cannot be read ({type(error).__name__}); give KEY_ID.key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PkiError(f"{path}: not an Ed25519 key; make one with `cloud-service tokens key`")
    claims = {
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + lifetime_s,
        "tenant": identity.tenant,
        "device": identity.device,
        "role": role.value,
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": path.stem})
