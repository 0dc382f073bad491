"""Sealed values open for their tenant and purpose, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_service.errors import StateStoreError
from cloud_service.storage.envelope import Envelope, load_master_key
from cloud_service.storage.state_store import StateStore, open_state


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with open_state(None, tmp_path) as opened:
        yield opened


def test_a_sealed_value_opens_for_its_own(store: StateStore) -> None:
    envelope = Envelope(b"k" * 32)
    sealed = store.run_here(lambda c: envelope.seal(c, "clinic", "response", b"plain"))
    assert b"plain" not in sealed
    fresh = Envelope(b"k" * 32)  # as after a restart
    assert store.run_here(lambda c: fresh.open(c, "clinic", "response", sealed)) == b"plain"
    store.run_here(lambda c: envelope.seal(c, "rival", "response", b"other"))
    for tenant, purpose in (("rival", "response"), ("clinic", "outcome"), ("nobody", "response")):
        with pytest.raises(StateStoreError):
            store.run_here(lambda c, t=tenant, p=purpose: envelope.open(c, t, p, sealed))


def test_every_changed_byte_is_noticed(store: StateStore) -> None:
    envelope = Envelope(b"k" * 32)
    sealed = store.run_here(lambda c: envelope.seal(c, "clinic", "response", b"plain"))
    for at in range(len(sealed)):
        broken = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(StateStoreError):
            store.run_here(lambda c, b=broken: envelope.open(c, "clinic", "response", b))
    for length in range(20):
        with pytest.raises(StateStoreError):
            store.run_here(lambda c, n=length: envelope.open(c, "clinic", "response", sealed[:n]))


def test_rotation_keeps_old_values_readable(store: StateStore) -> None:
    envelope = Envelope(b"k" * 32)
    old = store.run_here(lambda c: envelope.seal(c, "clinic", "response", b"old"))
    assert store.run_here(lambda c: envelope.rotate(c, "clinic")) == 2
    new = store.run_here(lambda c: envelope.seal(c, "clinic", "response", b"new"))
    assert old[:5] != new[:5]
    for sealed, plain in ((old, b"old"), (new, b"new")):
        assert (
            store.run_here(lambda c, s=sealed: envelope.open(c, "clinic", "response", s)) == plain
        )


def test_a_key_of_a_transaction_that_failed_is_not_used(store: StateStore) -> None:
    envelope = Envelope(b"k" * 32)

    def fail(connection: sa.Connection) -> None:
        envelope.seal(connection, "clinic", "response", b"lost")
        raise KeyError

    with pytest.raises(KeyError):
        store.run_here(fail)
    sealed = store.run_here(lambda c: envelope.seal(c, "clinic", "response", b"plain"))
    fresh = Envelope(b"k" * 32)
    assert store.run_here(lambda c: fresh.open(c, "clinic", "response", sealed)) == b"plain"


def test_another_master_key_opens_nothing(store: StateStore) -> None:
    sealed = store.run_here(lambda c: Envelope(b"k" * 32).seal(c, "clinic", "response", b"plain"))
    with pytest.raises(StateStoreError, match="master key"):
        store.run_here(lambda c: Envelope(b"j" * 32).open(c, "clinic", "response", sealed))


def test_the_master_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "master.key"
    key = load_master_key(path)
    assert load_master_key(path) == key
    path.chmod(0o644)
    with pytest.raises(StateStoreError, match="chmod 600"):
        load_master_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(StateStoreError):
        load_master_key(path)
