"""Laws of splicing and restoring: nothing is lost, whatever the text, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.errors import AnonymizationError, VaultError
from edge_agent.flow import Entity
from edge_agent.restore import ArgumentsRestorer, StreamRestorer, restore, restore_arguments
from edge_agent.vault import Vault
from tests.anonymizer_helpers import rules_only

ANONYMIZER = rules_only(timeout_s=30)
PIECES = st.sampled_from(
    [
        "[PERSON_1]", "[[PERSON_1]]", "person_1", "\\[PERSON\\_1\\]", "［ID＿2］", "PERSON_", "1b]", "[", "]", "\\", "[ID_", "ORGANIZATION_12", "ſ",
        "Dr. Pryce", "MRN: 7328161", "617-555-0142", "a@b.example", "José", "ﬁ", "\u200b", "10⁹/L", "王伟主任", " ", "\n", ", ", "2024-10-31", "x", "9",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=14).map("".join))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS)
def test_splice_then_restore_is_the_identity(text: str) -> None:
    vault = Vault()
    try:
        outcome = ANONYMIZER.replace((text,), vault)
    except AnonymizationError:
        return  # it stays on the device; that is allowed, a wrong restoration is not
    assert restore(outcome.texts[0], vault).text == text
    rebuilt, position = [], 0
    for span in outcome.replacements[0]:
        assert position <= span.start < span.end <= len(text)
        rebuilt += [text[position : span.start], span.surrogate]
        position = span.end
    assert "".join([*rebuilt, text[position:]]) == outcome.texts[0]


def _vault() -> Vault:
    vault = Vault()
    vault.put("[PERSON_1]", Entity.PERSON, 'Zoë "Q" \\ [PERSON_2]\n')
    vault.put("[PERSON_1b]", Entity.PERSON, "Zoë")
    vault.put("[ORGANIZATION_12]", Entity.ORGANIZATION, "General")
    vault.put("[ID_2]", Entity.ID, "778")
    return vault


@settings(max_examples=400, deadline=None)
@given(
    st.lists(PIECES, max_size=12).map("".join), st.lists(st.integers(1, 9), min_size=1, max_size=60)
)
def test_every_chunking_restores_alike(text: str, sizes: list[int]) -> None:
    whole = restore(text, _vault())
    stream = StreamRestorer(_vault())
    out, position, turn = "", 0, 0
    while position < len(text):
        size = sizes[turn % len(sizes)]
        out += stream.feed(text[position : position + size])
        assert len(stream._held) <= 24
        position, turn = position + size, turn + 1
    assert out + stream.finish() == whole.text
    assert stream.num_unknown == whole.num_unknown


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(PIECES, st.integers(), st.none()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(PIECES, inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_arguments_stay_json_and_keep_their_keys(document: object) -> None:
    def expected(value: object) -> object:
        if isinstance(value, dict):
            return {key: expected(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [expected(inner) for inner in value]
        return value

    text = json.dumps({"arguments": document}, ensure_ascii=False)
    whole = restore_arguments(text, _vault()).text
    restored = json.loads(whole)

    def keys(value: object) -> list[str]:
        if isinstance(value, dict):
            return [*value, *(k for inner in value.values() for k in keys(inner))]
        return [k for inner in value for k in keys(inner)] if isinstance(value, list) else []

    assert keys(restored) == keys(json.loads(text))
    stream = ArgumentsRestorer(_vault())
    assert "".join(map(stream.feed, text)) + stream.finish() == whole


def test_accepted_forms() -> None:
    vault = _vault()
    for form in (
        "[PERSON_1b]",
        "[person_1b]",
        r"\[PERSON\_1b\]",
        r"[PERSON\_1b]",
        "［PERSON＿1b］",
        "[[PERSON_1b]]",
        "PERSON_1b",
        "**[PERSON_1b]**",
    ):
        assert restore(form, vault).text.strip("*") == "Zoë", form
    assert (
        restore("[ORGANIZATION_12z]", vault).text == "General"
    )  # an unknown letter falls back to the number
    for form in ("[PERSON_9]", "xPERSON_1b", "PERSON_123", "[PERSON_01]"):
        assert restore(form, vault).text == form
    assert restore("[PERSON_9] [PERSON_8]", vault).num_unknown == 2


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_sealed_vault_opens_with_its_own_key_and_request_only(key: bytes, aad: bytes) -> None:
    sealed = _vault().to_sealed(key, aad)
    assert list(Vault.from_sealed(sealed, key, aad).originals()) == list(_vault().originals())
    assert "Zoë".encode() not in sealed
    for other_key, other_aad, blob in (
        (bytes(32) if key != bytes(32) else b"x" * 32, aad, sealed),
        (key, aad + b"x", sealed),
        (key, aad, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (key, aad, b"???" + sealed[3:]),
        (key, aad, b""),
    ):
        with pytest.raises(VaultError):
            Vault.from_sealed(blob, other_key, other_aad)
