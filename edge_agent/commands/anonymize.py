"""``edge-agent anonymize``: identifiers out of a file of texts, on this device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from edge_agent.errors import InputError, OutputError
from partition.console_script import json_option, print_json
from partition.progress_bar import ProgressBar


@click.command()
@click.option(
    "--input",
    "input_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON lines {"id", "text"}.',
)
@click.option(
    "--output",
    "output_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON lines with surrogates; a line that fails has an error and no text.",
)
@click.option(
    "--dicom",
    nargs=2,
    metavar="IN OUT",
    type=click.Path(path_type=Path),
    help="Instead: a DICOM file or a folder of them, and the folder of the copies.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --dicom: the device's settings, whose key makes the pseudonyms.",
)
@click.option(
    "--language", type=click.Choice(("en", "pt", "zh")), help="Of every text; left out: found out."
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models are kept; by default the user's cache folder.",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; the pipelines must be in the cache.")
@json_option
def anonymize(
    input_path: Path | None,
    output_path: Path | None,
    dicom: tuple[Path, Path] | None,
    config_path: Path | None,
    language: str | None,
    cache_dir: Path | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Replace names, dates, numbers and other identifiers by surrogates."""
    if (dicom is None) != (input_path is not None and output_path is not None) or (
        dicom is not None and (input_path, output_path) != (None, None)
    ):
        raise click.UsageError("give --input and --output, or --dicom IN OUT")
    if dicom is not None:
        from edge_agent.commands.dicom import anonymize_dicom

        anonymize_dicom(
            *dicom,
            language=language,
            cache_dir=cache_dir,
            offline=offline,
            config_path=config_path,
            as_json=as_json,
        )
        return
    assert input_path is not None
    assert output_path is not None

    from edge_agent.anonymize.anonymizer import Anonymizer
    from edge_agent.anonymize.batch import anonymize_jsonl
    from partition.store.model_store import ModelStore

    try:
        size = input_path.stat().st_size
        source = input_path.open("rb")
    except OSError as error:
        raise InputError(
            f"{input_path} cannot be read ({type(error).__name__}); correct the path"
        ) from error
    with source:
        store = ModelStore(cache_dir, offline=offline)
        languages = ("en", "pt", "zh") if language is None else (language,)
        anonymizer = Anonymizer.open(store, languages=languages)
        done = failed = done_bytes = 0
        with ProgressBar("anonymize", size) as bar:

            def advance(num_bytes: int) -> None:
                nonlocal done_bytes
                done_bytes += num_bytes
                bar.update(done_bytes)

            with _Written(output_path) as target:
                for result in anonymize_jsonl(
                    _lines(source), anonymizer, language=language, report=advance
                ):
                    target.write(result.line.encode() + b"\n")
                    done += 1
                    failed += result.failed
    if as_json:
        print_json({"lines": done, "failed": failed, "output": str(output_path)})
    else:
        click.echo(f"{done} lines, {failed} of them failed: {output_path}", err=True)


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    """Lines that hold something; a blank one at the end is no line."""
    for raw in source:
        if raw.strip():
            yield raw


class _Written:
    """A file that is there when it is whole; what stood there before stays until then."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> IO[bytes]:
        try:
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".anonymize-")
        except OSError as error:
            raise OutputError(
                f"{self._path.parent} cannot be written ({type(error).__name__}); choose another output"
            ) from error
        self._name = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                self._name.replace(self._path)
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written ({type(error).__name__}); free some space or choose another output"
            ) from error
        finally:
            self._name.unlink(missing_ok=True)
