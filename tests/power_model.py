"""What a power cut may leave: entries that were not synced are gone, or there; content that was not synced is torn."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.sync.disk import Disk

Change = tuple[tuple[str, "Node | None"], ...]  # names set (or deleted) in one step


@dataclass(eq=False)
class File:
    content: bytes = b""
    stored: bytes = b""  # what was synced


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    entries: dict[str, Node] = field(default_factory=dict)
    stored: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def change(self, *names: tuple[str, Node | None]) -> None:
        _apply(self.entries, names)
        self.pending.append(names)


Node = File | Link | Folder


@dataclass(frozen=True)
class Snapshot:
    """A disk after a power cut, as a tree that can be written somewhere."""

    step: int
    tree: dict[str, object]
    journal: bytes
    promised: str  # state of the release at its last commit that returned, "" before the first

    def restore(self, folder: Path) -> None:
        _restore(self.tree, folder)
        (folder / "sync.db").write_bytes(self.journal)
        (folder / "tuf").mkdir(exist_ok=True)


class PowerModel(Disk):
    """The real disk, and beside it a model of what is durable; ``skips`` leaves a sync or commit out."""

    def __init__(
        self,
        folder: Path,
        *,
        skips: Callable[[str, str], bool] = lambda method, path: False,
        about: str = "cxr-2",
        seed: int = 0,
    ) -> None:
        self.root = folder
        self.snapshots: list[Snapshot] = []
        self._skips = skips
        self._about = about
        self._promised = ""
        self._random = random.Random(seed)
        self._inodes: dict[int, File] = {}
        self._tree = self._load(folder)
        self._journal = _journal_of(folder)
        self._step_number = 0

    def take(self) -> None:
        """Keep three of the disks that a power cut at this moment may leave."""
        for variant in ("least", "torn", "mixed"):
            tree = self._cut(self._tree, variant)
            snapshot = Snapshot(self._step_number, tree, self._journal, self._promised)
            self.snapshots.append(snapshot)
        self._step_number += 1

    def write(self, path: Path, data: bytes, at: int = 0) -> None:
        self.take()
        super().write(path, data, at)
        folder, name = self._at(path)
        node = folder.entries.get(name)
        if not isinstance(node, File):
            node = File()
            folder.change((name, node))
        padded = node.content.ljust(at, b"\0")
        node.content = padded[:at] + data + padded[at + len(data) :]

    def truncate(self, path: Path, size_bytes: int) -> None:
        self.take()
        super().truncate(path, size_bytes)
        folder, name = self._at(path)
        node = folder.entries[name]
        assert isinstance(node, File)
        node.content = node.content[:size_bytes]

    def sync_file(self, path: Path) -> None:
        if path.parent.name in ("tuf", "root_history"):
            return
        self.take()
        folder, name = self._at(path)
        node = folder.entries[name]
        assert isinstance(node, File)
        if not self._skips("sync_file", self._name(path)):
            node.stored = node.content

    def sync_folder(self, path: Path) -> None:
        if path.name in ("tuf", "root_history"):
            return
        self.take()
        folder = self._folder(path)
        if not self._skips("sync_folder", self._name(path)):
            folder.stored = dict(folder.entries)
            folder.pending.clear()

    def make_folder(self, path: Path) -> None:
        is_new = not path.exists()
        super().make_folder(path)
        if is_new:
            self.take()
            folder, name = self._at(path)
            folder.change((name, Folder()))

    def link(self, source: Path, path: Path) -> None:
        self.take()
        super().link(source, path)
        node = self._node(source)
        folder, name = self._at(path)
        folder.change((name, node))

    def rename(self, source: Path, path: Path) -> None:
        self.take()
        super().rename(source, path)
        node = self._node(source)
        (before, old), (after, new) = self._at(source), self._at(path)
        if before is after:
            before.change((old, None), (new, node))
        else:
            before.change((old, None))
            after.change((new, node))

    def point(self, path: Path, target: str) -> None:
        self.take()
        super().point(path, target)
        folder, name = self._at(path)
        folder.change((name, Link(target)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        if path.parent.name in ("tuf", "root_history"):
            return
        folder, name = self._at(path)
        if name in folder.entries:
            self.take()
            folder.change((name, None))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        folder, name = self._at(path)
        if name in folder.entries:
            self.take()
            folder.change((name, None))

    def commit(self, connection: sqlite3.Connection) -> None:
        self.take()
        row = connection.execute(
            "SELECT state FROM releases WHERE release = ?", (self._about,)
        ).fetchone()
        state = str(row[0]) if row is not None else ""
        super().commit(connection)
        is_news, self._promised = state != self._promised, state
        # A commit that is not synced leaves the journal of before, until one that is takes it along.
        if not (is_news and self._skips("commit", state)):
            self._journal = connection.serialize()

    def _cut(self, folder: Folder, variant: str) -> dict[str, object]:
        entries = dict(folder.stored)
        kept = {
            "least": 0,
            "torn": len(folder.pending),
            "mixed": self._random.randint(0, len(folder.pending)),
        }[variant]
        for change in folder.pending[:kept]:
            _apply(entries, change)
        tree: dict[str, object] = {}
        for name, node in entries.items():
            if isinstance(node, Folder):
                tree[name] = self._cut(node, variant)
            elif isinstance(node, Link):
                tree[name] = node
            elif variant == "mixed" and self._random.random() < 0.5:
                tree[name] = node.content
            elif variant == "torn" and node.content != node.stored:
                tree[name] = node.content[: len(node.content) // 2]
            else:
                tree[name] = node.stored
        return tree

    def _load(self, folder: Path) -> Folder:
        entries: dict[str, Node] = {}
        for path in folder.iterdir():
            if path.name in ("tuf", "lock") or path.name.startswith("sync.db"):
                continue
            if path.is_symlink():
                entries[path.name] = Link(str(path.readlink()))
            elif path.is_dir():
                entries[path.name] = self._load(path)
            else:
                data = path.read_bytes()
                entries[path.name] = self._inodes.setdefault(path.stat().st_ino, File(data, data))
        return Folder(entries, dict(entries))

    def _folder(self, path: Path) -> Folder:
        node: Node = self._tree
        for name in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.entries[name]
        assert isinstance(node, Folder)
        return node

    def _at(self, path: Path) -> tuple[Folder, str]:
        return self._folder(path.parent), path.name

    def _node(self, path: Path) -> Node:
        folder, name = self._at(path)
        return folder.entries[name]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _apply(entries: dict[str, Node], change: Change) -> None:
    for name, node in change:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _restore(tree: dict[str, object], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, node in tree.items():
        if isinstance(node, dict):
            _restore(node, folder / name)
        elif isinstance(node, Link):
            (folder / name).symlink_to(node.target)
        else:
            assert isinstance(node, bytes)
            (folder / name).write_bytes(node)


def _journal_of(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "sync.db")
    try:
        return connection.serialize()
    finally:
        connection.close()
