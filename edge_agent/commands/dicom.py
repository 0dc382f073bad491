"""``edge-agent anonymize --dicom IN OUT``: whole DICOM files, for operators who let them leave the device."""

from __future__ import annotations

from pathlib import Path

import click

from edge_agent.errors import InputError
from partition.console_script import print_json
from partition.progress_bar import ProgressBar


def anonymize_dicom(
    source: Path,
    folder: Path,
    *,
    language: str | None,
    cache_dir: Path | None,
    offline: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """De-identify a file or a folder of files into a folder; each refusal is one line on stderr.

    Raises:
        InputError: There is no file, or none of them may leave.
        OutputError: The folder cannot be written.
        KeyStoreError: The device's key cannot be used.
    """
    from edge_agent.anonymize.anonymizer import Anonymizer
    from edge_agent.assembly import KEY_FILE
    from edge_agent.config import load_config
    from edge_agent.dicom.batch import KEY_PURPOSE, deidentify_files, list_files
    from edge_agent.keystore import KeyStore
    from edge_agent.vault import Vault
    from partition.store.model_store import ModelStore

    files = list_files(source)
    config = load_config(config_path)
    config.state_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = KeyStore.open(config.state_folder / KEY_FILE).derive(KEY_PURPOSE)
    store = ModelStore(cache_dir or config.cache_folder, offline=offline or config.offline)
    anonymizer = Anonymizer.open(
        store, languages=("en", "pt", "zh") if language is None else (language,)
    )

    def scrub(text: str) -> str:
        vault = Vault()
        try:
            return anonymizer.replace((text,), vault, language=language).texts[0]
        finally:
            vault.wipe()

    num_copies, first_refusal, done_bytes = 0, "", 0
    with ProgressBar("anonymize", sum(path.stat().st_size for path in files)) as bar:
        results = deidentify_files(files, folder, secret=secret, scrub_text=scrub)
        for path, result in zip(files, results, strict=True):
            done_bytes += path.stat().st_size
            bar.update(done_bytes)
            if result.error is None:
                num_copies += 1
            else:
                first_refusal = first_refusal or result.error
                click.echo(f"file {result.number}: {result.error}", err=True)
    if not num_copies:
        raise InputError(first_refusal)
    refused = len(files) - num_copies
    if as_json:
        print_json(
            {"files": len(files), "copies": num_copies, "refused": refused, "output": str(folder)}
        )
    else:
        click.echo(f"{len(files)} files, {refused} of them refused: {folder}", err=True)
