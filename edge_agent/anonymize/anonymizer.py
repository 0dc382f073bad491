"""The anonymizer: ``Prepared`` in, ``Anonymized`` and ``Vault`` out, or an error that keeps the request on the device.

known values -> structure -> recognizers -> NER -> veto -> merge -> propagate -> splice -> residual scan
"""

from __future__ import annotations

import datetime
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

from edge_agent.anonymize import anonymized as sealed
from edge_agent.anonymize.alignment import MatchText, align
from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.anonymize.date_shift import DateShift
from edge_agent.anonymize.head import Head
from edge_agent.anonymize.known_values import find_known
from edge_agent.anonymize.language import LANGUAGES, detect
from edge_agent.anonymize.merge import merge
from edge_agent.anonymize.propagate import propagate
from edge_agent.anonymize.recognizers.dates import find_birth_years
from edge_agent.anonymize.registry import RECOGNIZERS, Recognizer, recognize
from edge_agent.anonymize.residual import SecondLook, find_residual
from edge_agent.anonymize.span import Span
from edge_agent.anonymize.splice import Replacement, masked, restores, splice, to_input
from edge_agent.anonymize.surrogates import SurrogateBook
from edge_agent.anonymize.veto import veto
from edge_agent.anonymize.watchdog import Watchdog
from edge_agent.errors import (
    RecognizerFailedError,
    ResidualIdentifierError,
    TextTooLongError,
    UnsupportedLanguageError,
)
from edge_agent.flow import KnownValue, Prepared
from edge_agent.vault import Vault

if TYPE_CHECKING:
    from partition.store.model_store import ModelStore

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 200_000  # of all messages of one request
_REPAIRS = 1  # times that the residual scan may widen what was found
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the texts of one request."""

    texts: tuple[str, ...] = field(repr=False)
    replacements: tuple[tuple[Replacement, ...], ...]
    language: str


class Anonymizer:
    """Finds identifiers and replaces them. One per process; threads share it."""

    def __init__(
        self,
        heads: dict[str, tuple[Head, ...]],
        *,
        version: str,
        timeout_s: float = 0.5,
        timeout_s_per_4kb: float = 0.1,
        recognizers: tuple[Recognizer, ...] = RECOGNIZERS,
        second_look: SecondLook = find_residual,
        today: Callable[[], datetime.date] = datetime.date.today,
    ) -> None:
        self.version = version
        self._heads = heads
        self._recognizers = recognizers
        self._second_look = second_look
        self._today = today
        self._watchdog = Watchdog(timeout_s=timeout_s, timeout_s_per_4kb=timeout_s_per_4kb)

    @classmethod
    def open(
        cls,
        store: ModelStore,
        *,
        languages: Sequence[str] = LANGUAGES,
        timeout_s: float = 0.5,
        timeout_s_per_4kb: float = 0.1,
    ) -> Self:
        """Load the pipelines of some languages; half a second, most of it ONNX Runtime for Chinese.

        Args:
            store: Where the pipelines are.
            languages: Which of ``en``, ``pt``, ``zh``.
            timeout_s: Of one request, processor time.
            timeout_s_per_4kb: Added for each 4,096 characters.

        Raises:
            PipelineUnavailableError: A pipeline cannot be loaded, or is not the pinned one.
            UnsupportedLanguageError: A language without a pipeline.
            ModelStoreError: A pipeline could not be fetched.
        """
        from edge_agent.anonymize.pipelines import load_heads

        heads, version = load_heads(store, languages)
        anonymizer = cls(
            heads, version=version, timeout_s=timeout_s, timeout_s_per_4kb=timeout_s_per_4kb
        )
        anonymizer.warm()
        return anonymizer

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages whose pipelines are loaded."""
        return tuple(self._heads)

    def warm(self) -> None:
        """Run every pipeline once, so that the first request is as fast as the next."""
        for heads in self._heads.values():
            for head in heads:
                head.find(align("Dr. A. Warm, 3 May 2020. 王医生。"))

    def anonymize(
        self, prepared: Prepared, *, book: SurrogateBook | None = None
    ) -> tuple[Anonymized, Vault]:
        """Replace the identifiers of one request.

        Args:
            prepared: The request.
            book: Numbers given in earlier requests of a session or patient; None: this request alone.

        Raises:
            AnonymizationError: The request may not leave the device; the error names stage and entity.
        """
        vault = Vault()
        try:
            outcome = self.replace(
                tuple(message.text for message in prepared.messages),
                vault,
                known=(*prepared.known, *prepared.request.known),
                language=prepared.request.language,
                book=book,
                dates=prepared.task.policy.dates,
            )
        except BaseException:
            vault.wipe()
            raise
        counts = Counter(r.entity for rows in outcome.replacements for r in rows)
        messages = tuple(
            replace(message, text=text)
            for message, text in zip(prepared.messages, outcome.texts, strict=True)
        )
        result = Anonymized(
            sealed._SEAL,
            request_id=prepared.request.id,
            task=prepared.task,
            messages=messages,
            num_replaced=counts,
            language=outcome.language,
        )
        return result, vault

    def replace(
        self,
        texts: tuple[str, ...],
        vault: Vault,
        *,
        known: tuple[KnownValue, ...] = (),
        language: str | None = None,
        book: SurrogateBook | None = None,
        dates: Literal["token", "shift"] = "token",
    ) -> Outcome:
        """Replace the identifiers of some texts that belong together.

        Raises:
            AnonymizationError: As :meth:`anonymize`.
        """
        if language is not None and language not in self._heads:
            raise UnsupportedLanguageError
        size = sum(map(len, texts))
        if size > MAX_CHARACTERS:
            raise TextTooLongError(MAX_CHARACTERS)
        book = book or SurrogateBook(secrets.token_bytes(_KEY_BYTES))

        def work(stage: Callable[[str], None]) -> Outcome:
            return self._replace(texts, vault, known, language, book, dates, stage)

        return self._watchdog.run(work, size)

    def _replace(
        self,
        texts: tuple[str, ...],
        vault: Vault,
        known: tuple[KnownValue, ...],
        language: str | None,
        book: SurrogateBook,
        dates: Literal["token", "shift"],
        stage: Callable[[str], None],
    ) -> Outcome:
        stage("align")
        documents = [align(text) for text in texts]
        languages = self._languages(documents, language)
        found = [self._find(document, known, languages, stage) for document in documents]
        stage("propagate")
        more = propagate(documents, found)
        merged = [
            merge([*spans, *extra], document.text)
            for document, spans, extra in zip(documents, found, more, strict=True)
        ]
        stage("residual")
        inputs = self._without_residue(documents, merged, known, stage)
        stage("splice")
        shift = DateShift.of(book.key, day_first=languages[0] == "pt") if dates == "shift" else None
        spliced = [
            splice(text, spans, book, vault, shift)
            for text, spans in zip(texts, inputs, strict=True)
        ]
        for (text, _), original in zip(spliced, texts, strict=True):
            if not restores(text, original, vault):
                raise RecognizerFailedError("splice")
        return Outcome(
            tuple(text for text, _ in spliced),
            tuple(rows for _, rows in spliced),
            "+".join(languages),
        )

    def _languages(self, documents: list[MatchText], language: str | None) -> tuple[str, ...]:
        if language is not None:
            return (language,)
        detected = detect("\n".join(document.folded for document in documents))
        missing = [name for name in detected if name not in self._heads]
        if len(missing) == len(detected):
            raise UnsupportedLanguageError
        return tuple(name for name in detected if name in self._heads)

    def _find(
        self,
        document: MatchText,
        known: tuple[KnownValue, ...],
        languages: tuple[str, ...],
        stage: Callable[[str], None],
    ) -> list[Span]:
        stage("recognizers")
        spans = [*find_known(document, known), *recognize(document, self._recognizers)]
        spans += find_birth_years(document, this_year=self._today().year)
        stage("ner")
        for language in languages:
            spans += veto([head.find(document) for head in self._heads[language]], document)
        size = len(document.text)
        if any(not 0 <= span.start < span.end <= size for span in spans):
            raise RecognizerFailedError("offsets")
        return merge(spans, document.text)

    def _without_residue(
        self,
        documents: list[MatchText],
        merged: list[list[Span]],
        known: tuple[KnownValue, ...],
        stage: Callable[[str], None],
    ) -> list[list[Span]]:
        """Spans of the inputs, widened once where the second look still sees something."""
        for attempt in range(_REPAIRS + 1):
            inputs = [to_input(d, spans) for d, spans in zip(documents, merged, strict=True)]
            originals = list(
                dict.fromkeys(
                    (span.entity, d.original[span.start : span.end])
                    for d, spans in zip(documents, inputs, strict=True)
                    for span in spans
                )
            )
            residue: list[list[Span]] = []
            for document, spans in zip(documents, inputs, strict=True):
                hits = list(self._second_look(masked(document, spans), originals, known))
                residue.append(
                    [Span(*document.to_input(h.start, h.end), h.entity, h.step) for h in hits]
                )
            if not any(residue):
                return inputs
            if attempt == _REPAIRS:
                raise ResidualIdentifierError(next(h.entity for hits in residue for h in hits))
            stage("repair")
            merged = [
                merge([*spans, *_to_match(document, hits)], document.text)
                for document, spans, hits in zip(documents, merged, residue, strict=True)
            ]
        raise AssertionError("unreachable")


def _to_match(document: MatchText, hits: list[Span]) -> list[Span]:
    """Spans of the input as spans of the text for matching."""
    if document.starts is None or document.ends is None:
        return hits
    moved: list[Span] = []
    for hit in hits:
        inside = [
            i
            for i, (s, e) in enumerate(zip(document.starts, document.ends, strict=True))
            if s < hit.end and e > hit.start
        ]
        if inside:
            moved.append(Span(inside[0], inside[-1] + 1, hit.entity, hit.step))
    return moved
