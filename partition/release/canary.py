"""Canaries: made-up sentences with planted identifiers, of which the anonymizer must find every one.

A release may bring tasks, and a task decides how a text that leaves is laid out and what may stand in it. So before a
release answers, each of its tasks is shown these sentences, and no planted identifier may be left in what would be sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import ManifestError

MAX_CANARIES = 1000
MAX_CANARY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One sentence. Made up for the purpose: no text of any person."""

    id: str
    language: str  # "en", "pt" or "zh"
    text: str = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False)  # each stands in the text

    def left_in(self, sent: str) -> int:
        """Return how many of the planted identifiers stand in a text."""
        folded = sent.casefold()
        return sum(identifier.casefold() in folded for identifier in self.identifiers)


BUILT_IN = (
    Canary(
        id="built-in-en",
        language="en",
        text=(
            "Patient Margaret Whitfield, MRN 00482913, born 14 March 1961, was seen by Dr. James Holloway. "
            "Phone 555-201-8834, mail m.whitfield@example.org. The lungs are clear."
        ),
        identifiers=(
            "Margaret",
            "Whitfield",
            "00482913",
            "14 March 1961",
            "Holloway",
            "555-201-8834",
            "m.whitfield@example.org",
        ),
    ),
    Canary(
        id="built-in-pt",
        language="pt",
        text=(
            "Paciente João Carvalho da Silva, CPF 529.982.247-25, nascido em 14/03/1961, atendido pela "
            "Dra. Ana Beatriz Souza. Telefone (11) 98765-4321. Os pulmões estão limpos."
        ),
        identifiers=(
            "João",
            "Carvalho",
            "529.982.247-25",
            "14/03/1961",
            "Beatriz",
            "98765-4321",
        ),
    ),
    Canary(
        id="built-in-zh",
        language="zh",
        text="患者王小明，住院号 20240317，出生日期1961年3月14日，电话13800138000。主治医生李建国。双肺清晰。",
        identifiers=("王小明", "20240317", "1961年3月14日", "13800138000", "李建国"),
    ),
)


def parse_canaries(data: bytes) -> tuple[Canary, ...]:
    """Read the canaries of a release.

    Raises:
        ManifestError: They are malformed, or one plants what its text does not have.
    """
    try:
        if len(data) > MAX_CANARY_BYTES:
            raise ManifestError("the canaries are too long; keep them under 4 MiB")
        items = _CanariesDocument.model_validate_json(data).sentences
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"the canaries are malformed at {where}: {first['msg']}") from error
    found = tuple(
        Canary(
            id=item.id,
            language=item.language,
            text=item.text,
            identifiers=tuple(item.identifiers),
        )
        for item in items
    )
    for canary in found:
        if canary.left_in(canary.text) != len(canary.identifiers):
            raise ManifestError(
                f"canary {canary.id} names an identifier that its text does not have; correct it"
            )
    return found


class _CanaryDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)
    id: Annotated[str, Field(max_length=128)]
    language: Literal["en", "pt", "zh"]
    text: Annotated[str, Field(max_length=10_000)]
    identifiers: Annotated[list[Annotated[str, Field(min_length=2)]], Field(min_length=1)]


class _CanariesDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, populate_by_name=True)
    schema_: Annotated[Literal[1], Field(alias="schema")]
    sentences: Annotated[list[_CanaryDocument], Field(max_length=MAX_CANARIES)]
