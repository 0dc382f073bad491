"""Golden outputs: what a release answered at its publisher's, and how far a device's own answers may lie from that.

Kernels differ between processors, so nothing is compared bit by bit: scores within a tolerance, and the same label
wherever the publisher's own margin is wider than twice that tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import ManifestError
from partition.release.manifest import GateLimits

MAX_PROMPTS = 1000
MAX_GOLDEN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenPrompt:
    """One prompt. Made up for the purpose: no text of any person."""

    id: str
    task: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenAnswer:
    """What a model answered to one prompt, greedily."""

    id: str
    text: str = field(repr=False)
    scores: Mapping[
        str, float
    ]  # natural logarithm, of each label; empty for a task that writes text
    ms: float  # from prompt to answer

    @property
    def margin(self) -> float:
        """How much surer the model was of its label than of the next, nats; infinite where there is no next."""
        ordered = sorted(self.scores.values(), reverse=True)
        return ordered[0] - ordered[1] if len(ordered) > 1 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The prompts of a release with the publisher's answers, in the same order."""

    prompts: tuple[GoldenPrompt, ...]
    answers: tuple[GoldenAnswer, ...]

    def to_bytes(self) -> bytes:
        """Serialise; the publisher's times are left out, they say nothing about a device."""
        items = [
            _PromptDocument(
                id=prompt.id,
                task=prompt.task,
                text=prompt.text,
                answer=answer.text,
                scores=dict(answer.scores),
            )
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
        ]
        return _GoldenDocument(schema_=1, prompts=items).model_dump_json(by_alias=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a device's answers lie beside the publisher's."""

    problems: tuple[str, ...]  # empty: passed
    max_abs_logprob: float
    label_match: float  # share
    p50_ms: float
    p95_ms: float


def compare(
    golden: Golden,
    answers: Sequence[GoldenAnswer],
    limits: GateLimits,
    *,
    baseline_p95_ms: float = 0.0,
) -> Comparison:
    """Judge a device's answers.

    Args:
        golden: The publisher's.
        answers: The device's, in the same order.
        limits: Of the release.
        baseline_p95_ms: Of the running release on these prompts; 0: latency is not judged.
    """
    problems: list[str] = []
    if [answer.id for answer in answers] != [answer.id for answer in golden.answers]:
        problems.append("not every golden prompt was answered")
    worst, sure, same = 0.0, 0, 0
    for wanted, got in zip(golden.answers, answers, strict=False):
        if set(wanted.scores) != set(got.scores):
            problems.append(f"prompt {wanted.id} has other labels")
            continue
        gaps = [abs(got.scores[label] - score) for label, score in wanted.scores.items()]
        worst = max([worst, *(gap if math.isfinite(gap) else math.inf for gap in gaps)])
        if wanted.margin > 2 * limits.max_abs_logprob:
            sure += 1
            same += got.text == wanted.text
    match = same / sure if sure else 1.0
    if worst > limits.max_abs_logprob:
        problems.append(
            f"a score lies {worst:.3f} nats from the publisher's, {limits.max_abs_logprob} are allowed"
        )
    if match < limits.label_match:
        problems.append(f"{sure - same} of {sure} sure answers differ from the publisher's")
    times = sorted(answer.ms for answer in answers)
    p95 = _quantile(times, 0.95)
    if baseline_p95_ms > 0 and p95 > limits.p95_ratio * baseline_p95_ms:
        problems.append(
            f"the 95th percentile of latency is {p95:.0f} ms, and {baseline_p95_ms:.0f} ms on what runs now"
        )
    return Comparison(
        problems=tuple(problems),
        max_abs_logprob=worst,
        label_match=match,
        p50_ms=_quantile(times, 0.5),
        p95_ms=p95,
    )


def parse_golden(data: bytes) -> Golden:
    """Read golden outputs.

    Raises:
        ManifestError: They are malformed.
    """
    try:
        if len(data) > MAX_GOLDEN_BYTES:
            raise ManifestError("the golden outputs are too long")
        document = _GoldenDocument.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(
            f"the golden outputs are malformed at {where}: {first['msg']}"
        ) from error
    return Golden(
        prompts=tuple(
            GoldenPrompt(id=item.id, task=item.task, text=item.text) for item in document.prompts
        ),
        answers=tuple(
            GoldenAnswer(id=item.id, text=item.answer, scores=item.scores, ms=0.0)
            for item in document.prompts
        ),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _PromptDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    id: Annotated[str, Field(max_length=128)]
    task: Annotated[str, Field(max_length=63)]
    text: Annotated[str, Field(max_length=100_000)]
    answer: str
    scores: dict[str, Annotated[float, Field(allow_inf_nan=False)]]


class _GoldenDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, populate_by_name=True)
    schema_: Annotated[Literal[1], Field(alias="schema")]
    prompts: Annotated[list[_PromptDocument], Field(min_length=1, max_length=MAX_PROMPTS)]
