r"""A task: what is asked of the model, what it may answer, and what may be done with the input.

Tasks are TOML files, so that an operator writes one without touching code:

    name = "cxr-triage"
    kind = "classify"
    labels = ["normal", "abnormal"]

    [prompt]
    system = "You read chest X-ray reports."
    template = "Findings: {text}\nIs this chest X-ray normal or abnormal?"

    [limits]
    max_input_characters = 20000

    [policy]
    local_threshold = 0.9
"""

from __future__ import annotations

import enum
import hashlib
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import TaskFileError

TEXT_FIELD = "{text}"


class Role(enum.StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str = field(repr=False)


class TaskKind(enum.StrEnum):
    """How a task is answered."""

    CLASSIFY = "classify"  # choose one of the labels
    GENERATE = "generate"  # write text


class WhenUnreachable(enum.StrEnum):
    """What becomes of a request that should go to the cloud while the cloud cannot be reached."""

    QUEUE = "queue"  # the local answer now, flagged; the better one follows
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may take."""

    max_input_characters: int = 50_000
    max_output_tokens: int = 256
    deadline_s: float = 60.0  # for the cloud's part


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be done with a request of this task."""

    local_threshold: float = 0.9  # least calibrated probability that lets the local answer stand
    may_leave_device: bool = True  # anonymised; False: never, in any form
    may_stay_local: bool = True  # False: the device never answers alone
    allow_uncertified: bool = (
        True  # LOCAL without a certificate of this fingerprint; the reason says so
    )
    allow_split: bool = False  # hidden states are not anonymous
    when_unreachable: WhenUnreachable = WhenUnreachable.QUEUE
    dates: Literal["token", "shift"] = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Name, kind, prompt, labels, limits and policy. Immutable and hashable."""

    name: str
    kind: TaskKind
    system: str = ""
    template: str = TEXT_FIELD
    labels: tuple[str, ...] = ()
    dicom_fields: tuple[str, ...] = ()  # keywords of header elements that become part of the text
    limits: Limits = Limits()
    policy: Policy = Policy()

    def render(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put the caller's messages into the prompt, for either tier's chat template.

        The task's system text comes first unless the caller brought its own; the template is laid round the last user
        message. ``str.replace`` and not ``str.format``: the text may hold braces.
        """
        rendered = list(messages)
        for index in range(len(rendered) - 1, -1, -1):
            if rendered[index].role is Role.USER:
                text = self.template.replace(TEXT_FIELD, rendered[index].text)
                rendered[index] = replace(rendered[index], text=text)
                break
        if self.system and not any(message.role is Role.SYSTEM for message in rendered):
            rendered.insert(0, Message(role=Role.SYSTEM, text=self.system))
        return tuple(rendered)

    @property
    def prompt_sha256(self) -> str:
        """Digest of everything that shapes the prompt and the answer; part of a certificate's fingerprint."""
        parts = (self.kind, self.system, self.template, *self.labels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def load_task(path: Path) -> Task:
    """Read and check one task file.

    Raises:
        TaskFileError: The file is missing, is no TOML, or has a wrong key or value; the message names file, line and key.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(
            f"{path}: cannot be read as UTF-8 text ({type(error).__name__})"
        ) from error
    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise TaskFileError(f"{path}: no valid TOML: {error}") from error
    try:
        return _TaskFile.model_validate(document).to_task()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or "file"
        line = _line_of_key(source, key)
        raise TaskFileError(f"{path}, line {line}, key {key!r}: {first['msg']}") from error


def load_tasks(*folders: Path) -> dict[str, Task]:
    """Read every ``*.toml`` of the folders; a later folder replaces tasks of the same name.

    Raises:
        TaskFileError: One of the files is wrong, or a folder does not exist.
    """
    tasks: dict[str, Task] = {}
    for folder in folders:
        if not folder.is_dir():
            raise TaskFileError(
                f"{folder}: no such folder of tasks; correct `tasks` in the configuration"
            )
        for path in sorted(folder.glob("*.toml")):
            task = load_task(path)
            tasks[task.name] = task
    return tasks


_LIMITS = Limits()
_POLICY = Policy()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _PromptSection(_Section):
    system: str = ""
    template: str = TEXT_FIELD

    @model_validator(mode="after")
    def _has_place_for_text(self) -> Self:
        if self.template.count(TEXT_FIELD) != 1:
            raise ValueError("`template` must contain {text} exactly once")
        return self


class _LimitsSection(_Section):
    max_input_characters: Annotated[int, Field(gt=0, le=10_000_000)] = _LIMITS.max_input_characters
    max_output_tokens: Annotated[int, Field(gt=0, le=32_768)] = _LIMITS.max_output_tokens
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = _LIMITS.deadline_s


class _PolicySection(_Section):
    local_threshold: Annotated[float, Field(ge=0, le=1)] = _POLICY.local_threshold
    may_leave_device: bool = _POLICY.may_leave_device
    may_stay_local: bool = _POLICY.may_stay_local
    allow_uncertified: bool = _POLICY.allow_uncertified
    allow_split: bool = _POLICY.allow_split
    when_unreachable: WhenUnreachable = _POLICY.when_unreachable
    dates: Literal["token", "shift"] = _POLICY.dates


class _DicomSection(_Section):
    fields: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")], ...] = ()


class _TaskFile(_Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    kind: TaskKind
    labels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    prompt: _PromptSection = _PromptSection()
    limits: _LimitsSection = _LimitsSection()
    policy: _PolicySection = _PolicySection()
    dicom: _DicomSection = _DicomSection()

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> Self:
        if self.kind is TaskKind.CLASSIFY and len(self.labels) < 2:
            raise ValueError("a `classify` task needs at least two `labels`")
        if self.kind is TaskKind.GENERATE and self.labels:
            raise ValueError("only a `classify` task has `labels`")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` must differ from each other")
        return self

    def to_task(self) -> Task:
        return Task(
            name=self.name,
            kind=self.kind,
            system=self.prompt.system,
            template=self.prompt.template,
            labels=self.labels,
            dicom_fields=self.dicom.fields,
            limits=Limits(**self.limits.model_dump()),
            policy=Policy(**self.policy.model_dump()),
        )


def _line_of_key(source: str, key: str) -> int:
    """Find the line (from 1) on which a dotted key is set, or what holds it begins; 1 when neither is there."""
    wanted = key.split(".")
    table: list[str] = []
    line_of_holder, length_of_holder = 1, 0
    for number, line in enumerate(source.splitlines(), start=1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            here = table = _parts(header[1])
        elif assignment := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            here = table + _parts(assignment[1])
            if here == wanted:
                return number
        else:
            continue
        if length_of_holder < len(here) and here == wanted[: len(here)]:
            line_of_holder, length_of_holder = number, len(here)
    return line_of_holder


def _parts(dotted: str) -> list[str]:
    return [part.strip(" \t\"'") for part in dotted.split(".")]
