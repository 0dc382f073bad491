"""Preprocessing: what is cleaned, what is refused, and that no refusal repeats the input."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import InputError
from edge_agent.flow import Entity, KnownValue, Request
from edge_agent.preprocess import clean_text, decode_text, is_placeholder, prepare
from partition.task import Limits, Message, Role, Task, TaskKind

TASK = Task(name="note", kind=TaskKind.GENERATE, limits=Limits(max_input_characters=100))
CANARY = "Quillfeather"


def request(**changes: object) -> Request:
    given: dict[str, object] = {"id": "r-1", "task": "note", **changes}
    return Request(**given)  # type: ignore[arg-type]


def test_text_becomes_one_user_message_with_one_kind_of_line_end() -> None:
    prepared = prepare(request(text="a\r\nb\rc\x0bd\u2028e\x85f"), TASK)
    assert prepared.messages == (Message(role=Role.USER, text="a\nb\nc\nd\ne\nf"),)
    assert prepared.num_characters == 11


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Jo\x00hn", "John"),
        ("PID\x1c1\x1d2", "PID 1 2"),
        ("\ufefftext", "text"),
        ("a\ud800b", "a\ufffdb"),
        ("esc\x1b[31m", "esc[31m"),
        ("tab\tstays, zero\u200bwidth too", "tab\tstays, zero\u200bwidth too"),
        ("10⁹/L ﬁ ①", "10⁹/L ﬁ ①"),
    ],
)
def test_clean_text(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_clean_text_is_idempotent_encodable_and_without_controls(text: str) -> None:
    clean = clean_text(text.lstrip("\ufeff"))
    assert clean_text(clean) == clean
    clean.encode("utf-8")
    assert all(character in "\n\t" or not 0 <= ord(character) < 32 for character in clean)
    assert len(clean) <= len(text)


def test_bytes_must_be_utf8() -> None:
    assert decode_text("\ufeffÁé 王".encode()) == "Áé 王"
    with pytest.raises(InputError, match="byte 3 of the input is no UTF-8"):
        decode_text(b"abc\xff\xfe")


@pytest.mark.parametrize("text", ["", "   \n\t", "\x00\x01\x02", "\r\n"])
def test_empty_input_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="the input is empty"):
        prepare(request(text=text), TASK)


def test_the_limit_is_exact_and_counts_what_is_left_after_cleaning() -> None:
    assert prepare(request(text="x" * 100), TASK).num_characters == 100
    assert prepare(request(text="\r\n" * 50 + "x" * 50), TASK).num_characters == 100
    with pytest.raises(InputError, match="longer than the 100 characters that task note takes"):
        prepare(request(text="x" * 101), TASK)


def test_ten_megabytes_are_refused_without_repeating_them() -> None:
    with pytest.raises(InputError) as refusal:
        prepare(request(text=CANARY * 1_000_000), TASK)
    assert CANARY not in str(refusal.value)


def test_exactly_one_kind_of_input() -> None:
    message = Message(role=Role.USER, text="hello")
    for changes in ({}, {"text": "a", "messages": (message,)}, {"text": "a", "dicom": b"x"}):
        with pytest.raises(InputError, match="exactly one of text, messages and dicom"):
            prepare(request(**changes), TASK)


def test_a_conversation_keeps_its_turns() -> None:
    turns = (
        Message(role=Role.SYSTEM, text="Be brief.\r\n"),
        Message(role=Role.USER, text="What is a lobe?"),
        Message(role=Role.ASSISTANT, text=""),
        Message(role=Role.USER, text="Go on."),
    )
    prepared = prepare(request(messages=turns), TASK)
    assert [message.role for message in prepared.messages] == [turn.role for turn in turns]
    assert prepared.messages[0].text == "Be brief.\n"


@pytest.mark.parametrize(
    ("roles", "complaint"),
    [
        ([Role.USER, Role.ASSISTANT], "the last message is not the user's"),
        ([Role.SYSTEM], "the last message is not the user's"),
        ([Role.TOOL], "holds no message of the user"),
        ([Role.USER] * 600, "more than 512 messages"),
    ],
)
def test_conversations_that_cannot_be_answered(roles: list[Role], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare(request(messages=tuple(Message(role=role, text="") for role in roles)), TASK)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "a\nb"},
        {"id": "x" * 300},
        {"language": "tlh"},
        {"max_output_tokens": 0},
        {"temperature": float("nan")},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"stop": ("",)},
        {"stop": ("a",) * 17},
        {"known": (KnownValue(entity=Entity.ID, value="9" * 2000),)},
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        prepare(replace(request(text="fine"), **changes), TASK)  # type: ignore[arg-type]


def test_known_values_are_cleaned_and_placeholders_dropped() -> None:
    known = tuple(
        KnownValue(entity=Entity.PERSON, value=value)
        for value in ("Ann\x00  Lee", "Ann Lee", "ANONYMOUS", "", "Test^Patient", "0000")
    )
    prepared = prepare(request(text="x", known=known), TASK)
    assert [value.value for value in prepared.known] == ["Ann Lee"]


@pytest.mark.parametrize(
    "value", ["anonymized", "UNKNOWN^UNKNOWN", "N/A", "00000000", "", "^^", "not specified"]
)
def test_placeholders(value: str) -> None:
    assert is_placeholder(value)


@pytest.mark.parametrize("value", ["Testa", "Nona Lee", "1CT1", "UNKNOWN^Marta"])
def test_no_placeholders(value: str) -> None:
    assert not is_placeholder(value)


def test_no_repr_shows_the_text() -> None:
    prepared = prepare(
        request(text=CANARY, known=(KnownValue(entity=Entity.PERSON, value=CANARY),)), TASK
    )
    assert CANARY not in repr(prepared)
