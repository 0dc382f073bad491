"""An :class:`Anonymized` as encrypted bytes, for the outbox, and back.

Only who holds the device's key can make bytes that :func:`unseal` accepts, so what comes out went through the anonymizer of
this device, in this process or an earlier one. The whole task is sealed along: the request is sent as it was prepared, even if
the task's file has changed meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import os

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.anonymize.anonymized import _SEAL, Anonymized, is_sealed
from edge_agent.errors import VaultError
from edge_agent.flow import Entity
from partition.task import Limits, Message, Policy, Role, Task, TaskKind

_FORMAT = b"TA1"
_NONCE_BYTES = 12  # NIST SP 800-38D, 5.2.1.1


def seal(anonymized: Anonymized, key: bytes, aad: bytes) -> bytes:
    """Encrypt with AES-256-GCM.

    Args:
        anonymized: Made by the anonymizer of this process, or by :func:`unseal`.
        key: 32 bytes, of the device's key store.
        aad: What the bytes are bound to.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not is_sealed(anonymized):
        raise TypeError("only Anonymized is kept for the cloud; anonymize the request first")
    document = {
        "request_id": anonymized.request_id,
        "task": dataclasses.asdict(anonymized.task),
        "messages": [(message.role, message.text) for message in anonymized.messages],
        "num_replaced": dict(anonymized.num_replaced),
        "language": anonymized.language,
    }
    nonce = os.urandom(_NONCE_BYTES)
    plain = json.dumps(document).encode()
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, plain, _FORMAT + aad)


def unseal(sealed: bytes, key: bytes, aad: bytes) -> Anonymized:
    """Decrypt what :func:`seal` made.

    Raises:
        VaultError: Another key, other ``aad``, changed bytes, or the format of another version.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head = len(_FORMAT) + _NONCE_BYTES
    if sealed[: len(_FORMAT)] != _FORMAT or len(sealed) < head:
        raise VaultError("the stored request has an unknown format; update the agent")
    try:
        plain = AESGCM(key).decrypt(sealed[len(_FORMAT) : head], sealed[head:], _FORMAT + aad)
        document = _Document.model_validate_json(plain)
    except InvalidTag:
        raise VaultError("the stored request is of another key, or damaged; ask again") from None
    except ValidationError:
        raise VaultError("the stored request is of another version; update the agent") from None
    return Anonymized(
        _SEAL,
        request_id=document.request_id,
        task=document.task.to_task(),
        messages=tuple(Message(role=role, text=text) for role, text in document.messages),
        num_replaced=document.num_replaced,
        language=document.language,
    )


class _TaskDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str
    kind: TaskKind
    system: str
    template: str
    labels: tuple[str, ...]
    dicom_fields: tuple[str, ...]
    limits: Limits
    policy: Policy

    def to_task(self) -> Task:
        return Task(**{name: getattr(self, name) for name in type(self).model_fields})


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    request_id: str
    task: _TaskDocument
    messages: tuple[tuple[Role, str], ...]
    num_replaced: dict[Entity, int]
    language: str
