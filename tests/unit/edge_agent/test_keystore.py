from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_agent.errors import KeyStoreError
from edge_agent.keystore import KeyStore


def test_makes_a_key_once_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "device.key"
    first = KeyStore.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert KeyStore.open(path).derive("a") == first.derive("a")
    assert [entry.name for entry in path.parent.iterdir()] == ["device.key"]


def test_purposes_have_unrelated_keys() -> None:
    store = KeyStore(bytes(32))
    assert store.derive("outbox/payload") != store.derive("outbox/vault")
    assert len(store.derive("x")) == 32
    # RFC 5869 with these inputs, computed by OpenSSL's HKDF: the derivation must never change.
    assert store.derive("outbox/payload").hex() == (
        "c687df7e2912707400c2ece913c6ca3f6688fcf00e0d32690227ff5f8e9e4a93"
    )


def test_says_nothing_of_the_key(tmp_path: Path) -> None:
    key = bytes(range(32))
    assert key.hex() not in repr(KeyStore(key)) and repr(key) not in repr(KeyStore(key))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_refuses_a_key_that_others_may_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "device.key"
    KeyStore.open(path)
    path.chmod(mode)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        KeyStore.open(path)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 10_000])
def test_refuses_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "device.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyStoreError, match="32 bytes"):
        KeyStore.open(path)
    assert path.read_bytes() == content, "a broken key is never replaced: data hangs on it"


def test_refuses_links_and_folders(tmp_path: Path) -> None:
    KeyStore.open(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(KeyStoreError):
            KeyStore.open(tmp_path / name)


def test_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeyStoreError, match=r"device\.key"):
        KeyStore.open(tmp_path / "file" / "device.key")


def test_many_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(
            pool.map(lambda _: KeyStore.open(tmp_path / "device.key").derive("a"), range(64))
        )
    assert len(keys) == 1
