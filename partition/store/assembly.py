"""Files put together from parts so that a kill at any moment costs one part at most."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from partition.store.durable import write_durably

CHUNK_BYTES = 1 << 20  # what is held in memory at a time


@dataclass(frozen=True, slots=True)
class _PartRecord:
    label: str
    bytes: int
    sha256: str


class Assembly:
    """One growing file and, beside it, a journal of the parts that are on the disk. One owner, one thread.

    A part enters the journal after its bytes are synced. Opening an assembly reads the parts of the journal again and
    cuts the file after the last one that is whole, so neither a torn write nor a changed byte is built upon.

    Args:
        path: The growing file; the journal is ``<path>.parts``.
        labels: What the parts are called, in order; a journal that tells of others is thrown away.
        report: Told the number of bytes that are there.
    """

    def __init__(
        self, path: Path, labels: tuple[str, ...], *, report: Callable[[int], None]
    ) -> None:
        self._path = path
        self._journal = path.with_name(path.name + ".parts")
        self._report = report
        self._hash = hashlib.sha256()
        self._records: list[_PartRecord] = []
        self.num_bytes = 0
        path.touch()
        for record, label in zip(self._read_journal(), labels, strict=False):
            if record.label != label or not self._take_back(record):
                break
        os.truncate(path, self.num_bytes)
        self._write_journal()

    @property
    def num_parts(self) -> int:
        """How many parts are whole."""
        return len(self._records)

    @property
    def sha256(self) -> str:
        """Digest of all parts so far."""
        return self._hash.hexdigest()

    def append(self, label: str, chunks: Iterable[bytes], *, max_bytes: int) -> None:
        """Add one part; when it fails, the file ends where it ended before.

        Raises:
            ValueError: The file would become longer than ``max_bytes``.
            OSError: It cannot be written.
        """
        part, whole, size = hashlib.sha256(), self._hash.copy(), 0
        try:
            with self._path.open("r+b") as file:
                file.seek(self.num_bytes)
                for chunk in chunks:
                    size += len(chunk)
                    if self.num_bytes + size > max_bytes:
                        raise ValueError("more bytes than the model has")
                    file.write(chunk)
                    part.update(chunk)
                    whole.update(chunk)
                    self._report(self.num_bytes + size)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.truncate(self._path, self.num_bytes)
            raise
        self._records.append(_PartRecord(label, size, part.hexdigest()))
        self._hash = whole
        self.num_bytes += size
        self._write_journal()

    def discard(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def _take_back(self, record: _PartRecord) -> bool:
        """Read one part of the journal from the file; False when it is not there as it was written."""
        part, whole, size = hashlib.sha256(), self._hash.copy(), 0
        with self._path.open("rb") as file:
            file.seek(self.num_bytes)
            while size < record.bytes:
                chunk = file.read(min(CHUNK_BYTES, record.bytes - size))
                if not chunk:
                    return False
                size += len(chunk)
                part.update(chunk)
                whole.update(chunk)
                self._report(self.num_bytes + size)
        if part.hexdigest() != record.sha256:
            return False
        self._records.append(record)
        self._hash = whole
        self.num_bytes += size
        return True

    def _read_journal(self) -> list[_PartRecord]:
        try:
            lines = self._journal.read_text(encoding="utf-8").splitlines()
            return [_PartRecord(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):  # none yet, or torn: begin again
            return []

    def _write_journal(self) -> None:
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in self._records)
        write_durably(self._journal, lines.encode())


def read_chunks(path: Path) -> Iterable[bytes]:
    """Yield a file in pieces of :data:`CHUNK_BYTES`."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def hash_file(path: Path) -> str:
    """Digest of one file, SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    r"""Digest of all files below a folder: SHA-256 over ``<sha256>␠␠<path>\n`` for each, sorted by path."""
    paths = sorted(path.relative_to(folder).as_posix() for path in files_below(folder))
    lines = "".join(f"{hash_file(folder / path)}  {path}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder; a link to somewhere else is none."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
