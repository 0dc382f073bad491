"""An outbox with plain contents, for tests that do not care what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.cloud.cloud import WireIds
from edge_agent.keystore import KeyStore
from edge_agent.outbox.outbox import Outbox
from edge_agent.sealing import open_bytes, seal_bytes

ROOT_KEY = bytes(range(32))


@dataclass(frozen=True)
class Text:
    """Something that can be kept in an outbox."""

    text: str

    def to_sealed(self, key: bytes, aad: bytes) -> bytes:
        return seal_bytes(self.text.encode(), key, aad)

    @classmethod
    def from_sealed(cls, sealed: bytes, key: bytes, aad: bytes) -> Text:
        return cls(open_bytes(sealed, key, aad).decode())


def open_outbox(
    folder: Path,
    *,
    clock: Callable[[], float] | None = None,
    root_key: bytes = ROOT_KEY,
    **changes: Any,
) -> Outbox:
    keys = KeyStore(root_key)
    if clock is not None:
        changes["clock"] = clock
    return Outbox(
        folder / "outbox.db",
        keys=keys,
        wire_ids=WireIds(keys.derive("wire-ids")),
        **{"tenant": "acme", "device": "ct-1"} | changes,
    )
