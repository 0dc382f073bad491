"""De-identification of one DICOM file or a folder of them, file by file.

File names are not repeated anywhere: they often hold a name. A file is told by its number in sorted order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.dicom.files import deidentify_file
from edge_agent.dicom.pixels import PixelRule, load_rules
from edge_agent.errors import InputError

KEY_PURPOSE = "dicom-files"  # for KeyStore.derive


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one file: a copy, or a sentence why there is none."""

    number: int  # from 1, in sorted order of the paths
    copy: Path | None = None
    error: str | None = None


def list_files(source: Path) -> tuple[Path, ...]:
    """The file, or every file below the folder, sorted; links are left out, because they may lead elsewhere.

    Raises:
        InputError: There is none.
    """
    paths = (source,) if source.is_file() else tuple(sorted(source.rglob("*")))
    files = tuple(path for path in paths if path.is_file() and not path.is_symlink())
    if not files:
        raise InputError("there is no file to de-identify; give a DICOM file or a folder of them")
    return files


def deidentify_files(
    files: tuple[Path, ...],
    folder: Path,
    *,
    secret: bytes,
    scrub_text: Callable[[str], str],
    rules: tuple[PixelRule, ...] | None = None,
) -> Iterator[FileResult]:
    """Write a de-identified copy of each file that may leave into a folder, and say why the others may not.

    Raises:
        ConfigError: The shipped rules cannot be read.
        OutputError: The folder cannot be written; copies made so far stay.
    """
    rules = load_rules() if rules is None else rules
    for number, path in enumerate(files, start=1):
        try:
            copy = deidentify_file(path, folder, secret=secret, scrub_text=scrub_text, rules=rules)
        except InputError as error:
            yield FileResult(number=number, error=str(error))
        else:
            yield FileResult(number=number, copy=copy)
