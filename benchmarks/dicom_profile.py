"""DICOM de-identification beside dicom-anonymizer, element by element against PS3.15 Table E.1-1, and before two public validators.

The table is read from a second source, not from the one that the product uses. ``dciodvfy`` (package dicom3tools) says whether a
file is still of its kind; ``dicomqc`` audits what identifies. Both are optional: a line is missing where the program is.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks._stuffed_dicom import NAME, nested, outcomes, stuffed
from benchmarks.line import Line, Options
from edge_agent.dicom.files import deidentify, deidentify_file
from edge_agent.errors import InputError

_SECRET = b"a secret for the benchmark"


def run(options: Options) -> Iterator[Line]:
    """The stuffed dataset first, then the test files of pydicom."""
    import pydicom

    peer = f"dicom-anonymizer {version('dicom-anonymizer')}"
    before = stuffed()
    ours, theirs = _ours(before), _theirs(before)
    for where, pick in (("at the top", lambda d: d), ("inside a sequence", nested)):
        mine, other = _counts(before, ours, pick, options=True), _counts(before, theirs, pick, options=False)  # fmt: skip
        for kind, case in (
            ("kept", "elements of table E.1-1 that keep an identifying value"),
            ("otherwise", "elements of table E.1-1 treated otherwise than it says"),
        ):
            yield Line(
                case=f"{case}, {where}", ours=mine[kind], theirs=other[kind], peer=peer, unit="elements",
                runs=mine["all"], less_is_better=True,
            )  # fmt: skip
    for name, dataset in (("ours", ours), (peer, theirs)):
        left = str(dataset).lower().count(NAME.lower())
        yield Line(case=f"places where the name still stands, {name}", ours=left, unit="places", runs=1, less_is_better=True)  # fmt: skip
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    yield from _real_files(files[:12] if options.quick else files)


def kinds_of_errors(path: Path) -> set[str]:
    """Errors that ``dciodvfy`` reports of a file: the sentences without the values in them."""
    found = subprocess.run(  # noqa: S603
        ["dciodvfy", str(path)],  # noqa: S607
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    lines = [line for line in found.stderr.splitlines() if line.startswith("Error")]
    return {
        re.sub(r"[0-9]+(\.[0-9]+)+", "UID", line.split(" - ", 1)[-1].split(" = ")[0])
        for line in lines
    }


def _real_files(files: list[Path]) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        copies: list[tuple[Path, Path]] = []
        for path in files:
            try:
                copies.append(
                    (path, deidentify_file(path, Path(folder), secret=_SECRET, scrub_text=_gone))
                )
            except InputError:
                continue
        yield Line(case="test files of pydicom that get a copy", ours=len(copies), unit="files", runs=len(files))  # fmt: skip
        if shutil.which("dciodvfy"):
            worse = sum(
                len(kinds_of_errors(copied) - kinds_of_errors(path)) for path, copied in copies
            )
            fewer = sum(
                len(kinds_of_errors(path) - kinds_of_errors(copied)) for path, copied in copies
            )
            yield Line(case="kinds of dciodvfy errors that a copy has and its file has not", ours=worse, unit="errors", runs=len(copies), less_is_better=True)  # fmt: skip
            yield Line(case="kinds of dciodvfy errors that a file has and its copy has not", ours=fewer, unit="errors", runs=len(copies))  # fmt: skip
        try:
            import dicomqc
        except ImportError:
            return
        result = dicomqc.scan_paths([folder])
        original = dicomqc.scan_paths([str(path) for path, _ in copies])
        for severity in sorted(
            {str(f.severity.value) for f in (*result.findings, *original.findings)}
        ):
            yield Line(
                case=f"dicomqc findings, {severity}, peer: the files before",
                ours=sum(f.severity.value == severity for f in result.findings),
                theirs=sum(f.severity.value == severity for f in original.findings),
                peer=f"dicomqc {version('dicomqc')}", unit="findings", runs=len(copies), less_is_better=True,
            )  # fmt: skip


def _counts(
    before: object, after: object, pick: Callable[..., object], *, options: bool
) -> Counter[str]:
    was, now = pick(before), pick(after)
    counts: Counter[str] = Counter()
    if was is None or now is None:
        return counts
    for rule, representation, outcome in outcomes(was, now):  # type: ignore[arg-type]
        counts["all"] += 1
        right = rule.allows(outcome, representation, options=options)
        counts["otherwise"] += not right
        counts["kept"] += outcome == "kept" and not right
    return counts


def _gone(text: str) -> str:
    return text.replace(NAME, "[PERSON_1]")


def _ours(dataset: object) -> object:
    return deidentify(dataset, secret=_SECRET, scrub_text=_gone)  # type: ignore[arg-type]


def _theirs(dataset: object) -> object:
    from dicomanonymizer import anonymize_dataset

    changed = copy.deepcopy(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anonymize_dataset(changed, delete_private_tags=True)
    return changed
