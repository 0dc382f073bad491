"""Short-lived tokens beside or instead of a certificate: JWT, EdDSA only, known by the id of their key.

Claims: ``aud`` is :data:`AUDIENCE`, ``exp`` at most 15 minutes after ``iat``, ``tenant`` and ``device`` say who.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cloud_service.errors import PkiError
from cloud_service.tenancy.identity import Identity, is_label
from protos.errors import UnauthenticatedError

AUDIENCE = "tandem"
MAX_LIFETIME_S = 900
LEEWAY_S = 60
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

    def identity(self, token: str) -> Identity:
        """Who a token says is calling.

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
                options={"require": ["exp", "iat", "aud", "tenant", "device"]},
            )
        except jwt.InvalidTokenError:
            raise refused from None
        tenant, device = claims["tenant"], claims["device"]
        is_short = claims["exp"] - claims["iat"] <= MAX_LIFETIME_S
        names_ok = isinstance(tenant, str) and isinstance(device, str)
        if not (is_short and names_ok and is_label(tenant) and is_label(device)):
            raise refused
        return Identity(tenant=tenant, device=device)
