"""Presidio's engine with our recognizer: it finds what the anonymizer finds, and nothing is incomplete."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.anonymize.anonymizer import Anonymizer
from edge_agent.errors import AnonymizationError
from tests.anonymizer_helpers import NoHead

TEXT = "Patient: Ottoline Quillfeather, MRN 4417082, tel (614) 555-0142."


def recognizer(**options: Any) -> Any:
    pytest.importorskip("presidio_analyzer")
    from edge_agent.anonymize.presidio import AnonymizerRecognizer

    anonymizer = Anonymizer({"en": (NoHead(),)}, version="rules", timeout_s=10, **options)
    return AnonymizerRecognizer(anonymizer, language="en")


def test_presidio_sees_our_spans() -> None:
    ours = recognizer()
    found = {(row.entity_type, TEXT[row.start : row.end]) for row in ours.analyze(TEXT, [])}
    assert ("PERSON", "Ottoline Quillfeather") in found
    assert ("ID", "4417082") in found
    assert {row.entity_type for row in ours.analyze(TEXT, ["PHONE"])} == {"PHONE"}
    from presidio_analyzer import RecognizerRegistry

    registry = RecognizerRegistry(recognizers=[ours], supported_languages=["en"])
    assert registry.get_recognizers(language="en", all_fields=True) == [ours]


def test_a_text_that_may_not_leave_gives_no_result() -> None:
    with pytest.raises(AnonymizationError):
        recognizer(recognizers=()).analyze("Quill " * 50_000, [])
