"""A model from the Hugging Face hub."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from partition.store.assembly import hash_file
from partition.store.catalog import HubFile, ModelEntry
from partition.store.staging import SourceError, Staging, is_about_room, reason_of

PROBE_S = 4.0  # what a machine without a hub pays for asking it


def download_from_hub(
    entry: ModelEntry, source: HubFile, staging: Staging, *, endpoint: str | None
) -> tuple[Path, str | None]:
    """Download one file from the Hugging Face hub, from where an earlier attempt ended.

    The hub is asked for the size first, on a thread of its own: looking up a name may block for longer than any
    timeout that the client knows. ``hf_hub_download`` begins again after a kill (seen with 2.4), so its own
    ``http_get`` is called with the size of what is there.

    Returns:
        The candidate and its SHA-256.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported, lazily
            build_hf_headers,
            tqdm,
        )
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

    target = staging.folder / "hub"
    target.touch()
    have = target.stat().st_size
    for start in (have, 0) if 0 < have <= entry.bytes else (0,):
        os.truncate(target, start)
        try:
            with target.open("r+b") as file:
                file.seek(start)
                http_get(
                    address,
                    file,
                    resume_size=start,
                    headers=build_hf_headers(),
                    expected_size=entry.bytes,
                    tqdm_class=Reporting,
                )
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:  # of whichever HTTP library this version of the client uses
            if isinstance(error, OSError) and is_about_room(error):
                raise
            raise SourceError(reason_of(error)) from error
        sha256 = hash_file(target)
        if sha256 == entry.sha256:
            break
    return target, sha256


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
        raise SourceError(f"cannot be reached ({reason_of(result)})") from result
    return result
