"""Shows canaries to the anonymizer, with every task of a release: ``python -m edge_agent.sync.canary_run FOLDER ...``.

In a process of its own, as the golden prompts: the language pipelines are loaded and freed with it. What is printed are
ids and counts, never a text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import AnonymizationError
from edge_agent.flow import Prepared, Request
from edge_agent.sync.golden_run import BUILT_IN_TASKS
from edge_agent.sync.release_layout import CANARIES, TASKS, folder_of
from partition.errors import ModelStoreError, PartitionError
from partition.release.canary import BUILT_IN, Canary, parse_canaries
from partition.task import Message, Role, Task, load_tasks

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymizer import Anonymizer

TIMEOUT_S = 10.0  # of one sentence; how fast the anonymizer is, is not the question here


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """What became of the canaries."""

    missed: tuple[str, ...]  # "TASK/CANARY" of each that would leave with an identifier in it
    num_masked: int
    num_refused: int  # not sent at all, so nothing was missed


def show_canaries(
    anonymizer: Anonymizer, tasks: Mapping[str, Task], canaries: Iterable[Canary]
) -> CanaryResult:
    """Prepare every canary as a request of every task, and look at what would be sent."""
    missed: list[str] = []
    num_masked = num_refused = 0
    for canary in canaries:
        for task in tasks.values():
            message = Message(role=Role.USER, text=canary.text)
            prepared = Prepared(
                request=Request(
                    id="canary", task=task.name, text=canary.text, language=canary.language
                ),
                task=task,
                messages=(message,),
                num_characters=len(canary.text),
            )
            try:
                anonymized, vault = anonymizer.anonymize(prepared)
            except AnonymizationError:
                num_refused += 1
                continue
            vault.wipe()
            sent = "\n".join(item.text for item in task.render(anonymized.messages))
            if canary.left_in(sent):
                missed.append(f"{task.name}/{canary.id}")
            else:
                num_masked += 1
    return CanaryResult(missed=tuple(missed), num_masked=num_masked, num_refused=num_refused)


def main(arguments: Sequence[str]) -> int:
    """Run the canaries of a release and the built-in ones, and print one JSON object."""
    folder, cache, languages = Path(arguments[0]), Path(arguments[1]), arguments[2].split(",")
    own = folder_of(folder, TASKS)
    path = folder / CANARIES
    try:
        tasks = load_tasks(BUILT_IN_TASKS, *([own] if own is not None else []))
        canaries = (*BUILT_IN, *(parse_canaries(path.read_bytes()) if path.is_file() else ()))
    except PartitionError as error:
        print(str(error), file=sys.stderr)  # noqa: T201 - this is a program
        return 1
    wanted = [canary for canary in canaries if canary.language in languages]
    anonymizer = _open(cache, languages)
    if anonymizer is None:
        # Without its pipelines the agent lets nothing leave, whatever the release says.
        result = CanaryResult(missed=(), num_masked=0, num_refused=len(wanted) * len(tasks))
    else:
        result = show_canaries(anonymizer, tasks, wanted)
    document = {
        "missed": result.missed,
        "num_masked": result.num_masked,
        "num_refused": result.num_refused,
    }
    print(json.dumps(document))  # noqa: T201 - this is a program
    return 0


def _open(cache: Path, languages: Sequence[str]) -> Anonymizer | None:
    from edge_agent.anonymize.anonymizer import Anonymizer
    from partition.store.model_store import ModelStore

    try:
        return Anonymizer.open(
            ModelStore(cache, offline=True), languages=languages, timeout_s=TIMEOUT_S
        )
    except (AnonymizationError, ModelStoreError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
