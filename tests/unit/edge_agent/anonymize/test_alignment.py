"""Text for matching and its map back to the input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.anonymize.alignment import align


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("José", "José"),  # decomposed
        ("ﬁrst", "first"),
        ("１３８", "138"),
        ("Jo\u200bhn", "John"),
        ("soft\u00adhyphen", "softhyphen"),
        ("a\u00a0b\tc", "a b c"),
        ("a\u2028b", "a\nb"),
        ("Ѕmіth", "Smith"),  # Cyrillic
        ("555‑0142", "555-0142"),
        ("٣٤٥", "345"),
        ("`x`", "'x'"),
        ("x\x00y", "xy"),
    ],
)
def test_what_patterns_see(text: str, matched: str) -> None:
    assert align(text).text == matched


def test_a_span_covers_whole_clusters() -> None:
    text = "x José ﬁ"
    document = align(text)
    start = document.text.index("José")
    assert text[slice(*document.to_input(start, start + 4))] == "José"
    fi = document.text.index("fi")
    assert text[slice(*document.to_input(fi, fi + 1))] == "ﬁ"


@given(st.text(max_size=60))
def test_every_position_maps_into_the_input(text: str) -> None:
    document = align(text)
    assert len(document.text) == len(document.folded)
    for index in range(len(document.text)):
        start, end = document.to_input(index, index + 1)
        assert 0 <= start < end <= len(text)
