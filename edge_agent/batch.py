"""``edge-agent run``: a file of requests in, a file of answers out, one line each, in the same order."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from edge_agent.agent import EdgeAgent
from edge_agent.errors import EdgeError, InputError, OutputError
from edge_agent.flow import Answer, Route
from edge_agent.jsonl import RequestLine, answer_line, error_line, parse_line, read_lines, to_bytes
from partition.calibration.records import Record, RecordWriter
from partition.errors import PartitionError
from protos.errors import WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What came out of one file."""

    num_lines: int
    num_errors: int
    num_skipped: int  # answered by an earlier, interrupted run
    routes: dict[str, int]


def run_batch(
    agent: EdgeAgent,
    *,
    task: str,
    source: Path,
    output: Path,
    parallel: int = 1,
    resume: bool = False,
    record: Path | None = None,
    record_hidden: bool = False,
    on_line: Callable[[], None] = lambda: None,
) -> BatchSummary:
    """Answer every line of a file.

    A line that cannot be answered gets an ``error`` line, so that input and output stay in step. Each line is written
    as soon as it and all before it are answered: after a kill, ``resume`` goes on behind the last whole line.

    Args:
        agent: Who answers.
        task: For the lines that name none.
        source: JSON lines.
        output: JSON lines; replaced unless ``resume``.
        parallel: Requests under way at once.
        resume: Keep the whole lines of ``output`` and skip as many input lines.
        record: Append what ``partition calibrate`` reads: one record for each line with a ``label``.
        record_hidden: Put hidden states into the records: a scorer with a probe learns from them, and they can be turned
            back into text.
        on_line: Called after each line, for a progress bar.

    Raises:
        OutputError: The output cannot be written (a full disk, say); the lines so far are kept.
    """
    routes: Counter[str] = Counter()
    num_lines = num_errors = 0
    num_done = _keep_whole_lines(output) if resume else 0
    with (
        _open_output(output, append=resume) as file,
        RecordWriter(record) if record is not None else nullcontext() as records,
        ThreadPoolExecutor(parallel) as threads,
    ):
        needs_local = record is not None
        for done in _answers(
            agent, threads, task, source, num_done, parallel, needs_local=needs_local
        ):
            try:
                _write_whole(file, to_bytes(done.line))
            except OSError as error:
                raise OutputError(
                    f"{output}: {error.strerror}; free some space, then go on with --resume"
                ) from error
            num_lines += 1
            if done.answer is None:
                num_errors += 1
            else:
                routes[done.answer.route.value] += 1
            if (
                records is not None
                and (labelled := _record(agent, done, with_hidden=record_hidden)) is not None
            ):
                records.write(labelled)
            on_line()
        _sync(file)
    return BatchSummary(
        num_lines=num_lines, num_errors=num_errors, num_skipped=num_done, routes=dict(routes)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """One input line and what became of it."""

    line: dict[str, Any]
    request: RequestLine | None = None  # None: the line could not be read
    task: str = ""
    answer: Answer | None = None  # None: the line says why


def _answers(
    agent: EdgeAgent,
    threads: ThreadPoolExecutor,
    task: str,
    source: Path,
    num_done: int,
    parallel: int,
    *,
    needs_local: bool,
) -> Iterator[_Done]:
    """Yield the lines in order, with at most ``2 * parallel`` requests read ahead of the writer."""
    under_way: deque[Future[_Done]] = deque()

    def answer(raw: bytes, number: int) -> _Done:
        line: RequestLine | None = None
        try:
            line = parse_line(raw, number)
            request = replace(line.to_request(task, source.parent), needs_local=needs_local)
            found = agent.ask(request)
        except (EdgeError, PartitionError, WireError) as error:
            return _Done(line=error_line(line.id if line else None, str(error)))
        return _Done(
            line=answer_line(line.id, found), request=line, task=request.task, answer=found
        )

    try:
        for index, (number, raw) in enumerate(read_lines(source)):
            if index < num_done:
                continue
            under_way.append(threads.submit(answer, raw, number))
            if len(under_way) >= 2 * parallel:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for waiting in under_way:
            waiting.cancel()


def _record(agent: EdgeAgent, done: _Done, *, with_hidden: bool) -> Record | None:
    """Make the calibration record of a labelled line; None where there is no label or no local answer."""
    if done.request is None or done.request.label is None or done.answer is None:
        return None
    local = done.answer.local
    if local is None:
        return None
    is_right = local.text.strip() == done.request.label
    was_cloud = done.answer.route is Route.CLOUD
    cluster = agent.cluster_of(done.request.text) if done.request.text else ""
    record = Record(
        id=str(done.request.id),
        score=local.confidence.score,
        probability=local.confidence.probability,
        loss=0.0 if is_right else 1.0,
        task=done.task,
        cluster=cluster,
        features=local.confidence.features,
        hidden=local.hidden if with_hidden else (),
        prompt=local.prompt if with_hidden else (),
        setup=agent.setup_sha256(done.task),
        cloud_correct=done.answer.text.strip() == done.request.label if was_cloud else None,
        truth=agent.label_of(done.task, done.request.label) if with_hidden else "",
    )
    return replace(record, was_learned=agent.was_learned(done.task, record.cluster_key))


def _open_output(output: Path, *, append: bool) -> FileIO:
    try:
        # Unbuffered: bytes that a full disk refused must not be tried again when the file is closed.
        return output.open("ab" if append else "wb", buffering=0)
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror}; give a file that can be written") from error


def _keep_whole_lines(output: Path) -> int:
    """Cut a torn last line off and count the others."""
    if not output.exists():
        return 0
    with output.open("rb+") as file:
        end = count = 0
        for line in file:
            if line.endswith(b"\n"):
                count += 1
                end += len(line)
        file.truncate(end)
    return count


def _write_whole(file: FileIO, data: bytes) -> None:
    """Write all of it; an unbuffered write may take only a part, just before the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync(file: FileIO) -> None:
    try:
        os.fsync(file.fileno())
    except OSError:  # a pipe or /dev/stdout cannot be synced, and need not be
        return


def read_single(text: str | None, stdin: BinaryIO) -> str:
    """Return the text of ``edge-agent ask``: the argument, or standard input for ``-``.

    Raises:
        InputError: Standard input is no UTF-8.
    """
    if text != "-" and text is not None:
        return text
    try:
        return stdin.read().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("standard input is no UTF-8 text; convert it first") from None
