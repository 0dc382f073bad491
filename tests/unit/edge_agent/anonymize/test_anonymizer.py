"""The gate: what leaves has been looked at twice, and whatever goes wrong keeps the request on the device."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from edge_agent.anonymize.alignment import MatchText, align
from edge_agent.anonymize.anonymized import Anonymized, is_sealed
from edge_agent.anonymize.anonymizer import MAX_CHARACTERS, Anonymizer
from edge_agent.anonymize.registry import RECOGNIZERS, recognize
from edge_agent.anonymize.residual import find_residual
from edge_agent.anonymize.span import Span, Step
from edge_agent.anonymize.surrogates import SurrogateBook
from edge_agent.errors import (
    AnonymizationError,
    AnonymizerTimeoutError,
    RecognizerFailedError,
    ResidualIdentifierError,
    TextTooLongError,
    UnsupportedLanguageError,
)
from edge_agent.flow import Entity, KnownValue
from edge_agent.restore import restore
from edge_agent.vault import Vault
from tests.anonymizer_helpers import NoHead, prepared, rules_only

SECRET = "Patient: Quillfeather, Zebedee   MRN: 7328161"


def test_a_request_goes_through() -> None:
    anonymized, vault = rules_only().anonymize(prepared(SECRET, language="en"))
    assert anonymized.messages[0].text == "Patient: [PERSON_1]   MRN: [ID_1]"
    assert anonymized.num_replaced == {Entity.PERSON: 1, Entity.ID: 1}
    assert is_sealed(anonymized)
    assert restore("Zed is [PERSON_1]", vault).text == "Zed is Quillfeather, Zebedee"


def test_a_name_found_once_is_found_everywhere() -> None:
    anonymized, _ = rules_only().anonymize(
        prepared(
            "Dr. John Quillfeather",
            "QUILLFEATHER, J. called; quillfeather will return",
            language="en",
        )
    )
    text = anonymized.messages[1].text.lower()
    assert "quillfeather" not in text
    assert "[person_1b]" in text  # another wording of the same person


def test_an_address_tells_a_name_and_no_ordinary_word() -> None:
    text = "From: hollis.radiology@example.org\nPlease ask Hollis about the radiology report; Radiology is open."
    anonymized, _ = rules_only().anonymize(prepared(text))
    sent = anonymized.messages[0].text
    assert "Hollis" not in sent and "hollis" not in sent
    assert "radiology report; Radiology is open." in sent


def test_a_longer_chat_keeps_the_surrogates_of_its_shorter_prefix() -> None:
    first, second = "Dr. Pryce saw MRN: 7328161.", "Dr. Tavolieri called 617-555-0142."
    anonymizer = rules_only()
    short, _ = anonymizer.anonymize(prepared(first, language="en"))
    longer, _ = anonymizer.anonymize(prepared(first, second, language="en"))
    assert longer.messages[0].text == short.messages[0].text


def test_a_session_keeps_its_surrogates_by_a_keyed_digest() -> None:
    book, anonymizer = SurrogateBook(b"k" * 32), rules_only()
    anonymizer.anonymize(prepared("Dr. Pryce", language="en"), book=book)
    later, vault = anonymizer.anonymize(
        prepared("Dr. Tavolieri, then Dr. Pryce", language="en"), book=book
    )
    assert later.messages[0].text == "Dr. [PERSON_2], then Dr. [PERSON_1]"
    assert restore(later.messages[0].text, vault).text == "Dr. Tavolieri, then Dr. Pryce"
    assert "Pryce" not in repr(vars(book) if hasattr(book, "__dict__") else book)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (
            KnownValue(entity=Entity.PERSON, value="QUILLFEATHER^ZEBEDEE^A"),
            "zebedee a. quillfeather",
        ),
        (
            KnownValue(entity=Entity.PERSON, value="QUILLFEATHER^ZEBEDEE"),
            "Quilfeather walks",
        ),  # one edit
        (KnownValue(entity=Entity.PERSON, value="王^伟"), "王伟来了"),
        (KnownValue(entity=Entity.DATE, value="19480307"), "7 de março de 1948"),
        (KnownValue(entity=Entity.DATE, value="19480307"), "1948年3月7日"),
        (KnownValue(entity=Entity.ID, value="00778354"), "number 778354"),
        (KnownValue(entity=Entity.ID, value="AB-12.77"), "ab1277"),
    ],
)
def test_known_values_are_found_in_any_writing(known: KnownValue, text: str) -> None:
    anonymized, _ = rules_only().anonymize(prepared(text, known=(known,)))
    assert sum(anonymized.num_replaced.values()) >= 1


def test_placeholders_are_no_known_values() -> None:
    known = (
        KnownValue(entity=Entity.PERSON, value="ANONYMOUS"),
        KnownValue(entity=Entity.ID, value=""),
    )
    anonymized, _ = rules_only().anonymize(prepared("anonymous donor", known=known))
    assert anonymized.messages[0].text == "anonymous donor"


ATTACKS = [
    "MRN: 7\u200b3\u200b2\u200b8\u200b1\u200b6\u200b1",
    "call ６１７-５５５-０１４２",
    "SSN 0 5 0 4 5 1 5 6 2",
    "ssn 050 45 1562",
    "Ｄｒ. Ｑｕｉｌｌ",
    "mail zebedee\uff20example.org",
    "Dr. Quіllfeather",  # a Cyrillic letter
    "phone 617\u00a0555\u20110142",
    "ID: 732\u00ad8161",
    "Dr. Quillfeather and QUILL\u200dFEATHER",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_spacing_and_look_alike_letters_do_not_help(text: str) -> None:
    anonymized, vault = rules_only().anonymize(prepared(text, language="en"))
    sent = anonymized.messages[0].text
    assert sum(c.isdigit() for c in sent.replace("_1", "").replace("_2", "")) <= 1
    assert "uill" not in sent.lower()
    assert "ｕ" not in sent
    assert "zebedee" not in sent
    assert restore(sent, vault).text == text


class Fault:
    """A pipeline that does something wrong."""

    def __init__(self, do: Callable[[], list[Span]]) -> None:
        self._do = do

    def find(self, document: MatchText) -> list[Span]:
        return self._do()


def _raise(error: Exception) -> list[Span]:
    raise error


FAULTS: dict[str, tuple[Callable[[], list[Span]], type[AnonymizationError]]] = {
    "raises": (lambda: _raise(ValueError(SECRET)), RecognizerFailedError),
    "memory": (lambda: _raise(MemoryError()), RecognizerFailedError),
    "recursion": (lambda: _raise(RecursionError()), RecognizerFailedError),
    "offsets": (lambda: [Span(5, 99_999, Entity.PERSON, Step.KNOWN)], RecognizerFailedError),
    "negative": (lambda: [Span(-3, 2, Entity.PERSON, Step.KNOWN)], RecognizerFailedError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_pipeline_keeps_the_request(name: str, caplog: pytest.LogCaptureFixture) -> None:
    do, expected = FAULTS[name]
    anonymizer = Anonymizer({"en": (Fault(do),)}, version="fault")
    with pytest.raises(expected) as caught:
        anonymizer.anonymize(prepared(SECRET, language="en"))
    told = str(caught.value) + repr(caught.value) + caplog.text
    assert "Quill" not in told
    assert "7328161" not in told
    assert caught.value.stage


def test_a_hanging_pipeline_is_left_behind() -> None:
    release = threading.Event()

    def hang() -> list[Span]:
        release.wait(20)
        return []

    anonymizer = Anonymizer({"en": (Fault(hang),)}, version="hangs", timeout_s=0.1)
    started_s = time.monotonic()
    with pytest.raises(AnonymizerTimeoutError) as caught:
        anonymizer.anonymize(prepared("text", language="en"))
    assert time.monotonic() - started_s < 5
    assert caught.value.stage == "ner"
    release.set()


def test_what_the_recognizers_forget_the_second_look_finds() -> None:
    text = (
        "Dr. Pryce wrote to a@b.example on May 3, 2021 and rang (617) 555-0142; CPF 111.444.777-35."
    )
    anonymized, _ = rules_only(recognizers=()).anonymize(prepared(text, language="en"))
    left = anonymized.messages[0].text
    assert left == "Dr. [PERSON_1] wrote to [EMAIL_1] on [DATE_1] and rang [PHONE_1]; CPF [ID_1]."


@pytest.mark.parametrize(
    "clean",
    [
        "Patient: stable. Mr. and Mrs. were seen. Dr. on call. Name: see chart.",
        "Version 12.0.1.4, 1/2 tablet, T2N1M0, L4-L5, GCS 15/15, BP 120/80, 2024, March 2024 is kept by nobody",
    ],
)
def test_the_second_look_leaves_ordinary_text_alone(clean: str) -> None:
    assert not list(find_residual(align(clean), [], ()))


def test_a_second_hit_of_the_second_look_is_final() -> None:
    def restless(document: MatchText, *_: object) -> Iterable[Span]:
        position = next(i for i, c in enumerate(document.text) if c.isalpha())
        return [Span(position, position + 1, Entity.ID)]

    anonymizer = rules_only(recognizers=(), second_look=restless)
    with pytest.raises(ResidualIdentifierError) as caught:
        anonymizer.anonymize(prepared("abcdef", language="en"))
    assert caught.value.entity is Entity.ID


@pytest.mark.parametrize(
    "removed",
    [
        r.name
        for r in RECOGNIZERS
        if r.name in ("emails", "phones", "dates", "ages", "persons", "streets")
    ],
)
def test_each_recognizer_is_needed(removed: str) -> None:
    text = "Dr. Pryce, 617-555-0142, a@b.example, May 3, 2021, 94 years old, 12 Elm Street"
    kept = tuple(r for r in RECOGNIZERS if r.name != removed)
    assert set(recognize(align(text))) - set(recognize(align(text), kept))


def test_language_and_length_are_checked() -> None:
    with pytest.raises(UnsupportedLanguageError):
        rules_only().anonymize(prepared("text", language="fr"))
    with pytest.raises(TextTooLongError):
        rules_only().anonymize(prepared("x" * (MAX_CHARACTERS + 1), language="en"))
    with pytest.raises(UnsupportedLanguageError):
        Anonymizer({"en": (NoHead(),)}, version="en").anonymize(prepared("患者王伟来院"))


def test_an_anonymized_cannot_be_made_elsewhere() -> None:
    anonymized, vault = rules_only().anonymize(prepared(SECRET, language="en"))
    with pytest.raises(TypeError):
        Anonymized(
            object(),
            request_id="x",
            task=anonymized.task,
            messages=(),
            num_replaced={},
            language="en",
        )
    with pytest.raises(TypeError):
        type("Sub", (Anonymized,), {})
    for thing in (anonymized, vault):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.copy(thing)
        with pytest.raises(TypeError):
            copy.deepcopy(thing)
        assert "Quill" not in repr(thing)
    with pytest.raises(AttributeError):
        anonymized.messages = ()
    assert not is_sealed(object.__new__(Anonymized))


def test_threads_do_not_share_values() -> None:
    anonymizer = rules_only(timeout_s=30)
    failures: list[str] = []

    def work(number: int) -> None:
        for turn in range(8):
            name = f"{'Abcdefghijklmnopqrstuvwxyz'[number % 26]}rid{'aeiou'[turn % 5]}nax"
            text = f"Dr. {name} MRN: {1_000_000 + number * 100 + turn}"
            anonymized, vault = anonymizer.anonymize(prepared(text, language="en"))
            if restore(anonymized.messages[0].text, vault).text != text or len(vault) != 2:
                failures.append(f"{number}.{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_vault_of_another_request_restores_nothing() -> None:
    anonymizer = rules_only()
    first, _ = anonymizer.anonymize(prepared("Dr. Pryce", language="en"))
    _, other = anonymizer.anonymize(prepared("MRN: 7328161", language="en"))
    restored = restore(first.messages[0].text, other)
    assert restored.text == first.messages[0].text
    assert restored.num_unknown == 1


def test_a_wiped_vault_is_empty() -> None:
    _, vault = rules_only().anonymize(prepared(SECRET, language="en"))
    vault.wipe()
    vault.wipe()
    assert list(vault.originals()) == []
    assert restore("[PERSON_1]", vault).text == "[PERSON_1]"
    assert isinstance(vault, Vault)
