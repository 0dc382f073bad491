"""A spaCy NER pipeline as a finder of spans. Import this module only where a pipeline is really loaded: spaCy costs seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import spacy

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

logger = logging.getLogger(__name__)

# Labels of OntoNotes (the general pipelines) and of our own heads.
_ENTITIES: Mapping[str, Entity] = {
    "PERSON": Entity.PERSON,
    "GPE": Entity.LOCATION,
    "LOC": Entity.LOCATION,
    "FAC": Entity.LOCATION,
    "LOCATION": Entity.LOCATION,
    "ORG": Entity.ORGANIZATION,
    "ORGANIZATION": Entity.ORGANIZATION,
    "ID": Entity.ID,
    "PHONE": Entity.PHONE,
    "AGE": Entity.AGE,
}
_OWN_ENTITIES: Mapping[str, Entity] = {**_ENTITIES, "DATE": Entity.DATE}
_UNUSED = ["tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]


class SpacyHead:
    """One pipeline with its NER component only. Inference is serialised: ``memory_zone`` does not nest."""

    def __init__(self, folder: Path, *, own: bool) -> None:
        self._nlp: Any = spacy.load(folder, exclude=_UNUSED)
        self._entities = _OWN_ENTITIES if own else _ENTITIES
        self._lock = threading.Lock()

    def find(self, document: MatchText) -> list[Span]:
        """Entities of one text."""
        if not any(c.isalpha() for c in document.text):
            return []
        with self._lock, getattr(self._nlp, "memory_zone", nullcontext)():
            doc = self._nlp(document.text)
            return [
                Span(ent.start_char, ent.end_char, self._entities[ent.label_], Step.NER)
                for ent in doc.ents
                if ent.label_ in self._entities
            ]
