"""Request -> Prepared: clean text within the task's limits, and what is known about the patient.

Cleaning changes only what no reader sees: line ends become one kind, control characters go, what is no Unicode
becomes U+FFFD. Nothing is normalised here; the anonymizer matches on a normalised copy and keeps the original.
"""

from __future__ import annotations

import re

from edge_agent.anonymize.placeholders import is_placeholder
from edge_agent.errors import InputError
from edge_agent.flow import KnownValue, Prepared, Request
from partition.task import Message, Role, Task

PREPROCESS_VERSION = (
    "1"  # part of every certificate's fingerprint: raise it whenever cleaning changes
)
LANGUAGES = ("en", "pt", "zh")
MAX_MESSAGES = 512
MAX_ID_CHARACTERS = 256
MAX_STOPS = 16
MAX_KNOWN_VALUES = 1024
MAX_KNOWN_CHARACTERS = 1024

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SEPARATORS = re.compile(
    "[\x1c-\x1f]"
)  # file, group, record, unit: HL7 and GS1 put them between values
# One that stands between two spaces takes one of them along: a gap would part a given name from its surname.
_CONTROLS = re.compile(
    "(?<= )[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+ |[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def prepare(request: Request, task: Task) -> Prepared:
    """Clean one request and hold it against the task's limits.

    Raises:
        InputError: The request is empty, too long, malformed, or its DICOM file cannot be read; no part of it is told.
    """
    _check_parameters(request)
    given = [request.text is not None, bool(request.messages), request.dicom is not None]
    if sum(given) != 1:
        raise InputError("a request has exactly one of text, messages and dicom; give one of them")
    known = request.known
    if request.dicom is not None:
        from edge_agent.dicom.report import read_report

        report = read_report(request.dicom, task.dicom_fields)
        said: tuple[Message, ...] = (Message(role=Role.USER, text=report.text),)
        known = (*known, *report.known)
    elif request.text is not None:
        said = (Message(role=Role.USER, text=request.text),)
    else:
        said = request.messages
    messages = _clean_messages(said, task)
    return Prepared(
        request=request,
        task=task,
        messages=messages,
        known=_useful(known),
        num_characters=sum(len(message.text) for message in messages),
    )


def decode_text(raw: bytes) -> str:
    """Read bytes as UTF-8, with or without a byte order mark.

    Raises:
        InputError: They are none; the message tells the first wrong position.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = error.start
    raise InputError(f"byte {position} of the input is no UTF-8; convert the input to UTF-8 first")


def clean_text(text: str) -> str:
    """Make line ends one kind, take control characters out, and replace lone surrogates by U+FFFD; idempotent."""
    text = _LINE_ENDS.sub("\n", text.removeprefix("\ufeff"))
    text = _CONTROLS.sub("", _SEPARATORS.sub(" ", text))
    return _LONE_SURROGATES.sub("\ufffd", text)


def _clean_messages(said: tuple[Message, ...], task: Task) -> tuple[Message, ...]:
    if len(said) > MAX_MESSAGES:
        raise InputError(f"the conversation has more than {MAX_MESSAGES} messages; send fewer")
    limit = task.limits.max_input_characters
    # Cleaning makes a text shorter, by one half at most where it is text at all.
    if sum(len(message.text) for message in said) > 2 * limit:
        raise _too_long(limit, task)
    messages = tuple(Message(role=message.role, text=clean_text(message.text)) for message in said)
    if sum(len(message.text) for message in messages) > limit:
        raise _too_long(limit, task)
    if messages[-1].role not in (Role.USER, Role.TOOL):
        raise InputError("the last message is not the user's; end the conversation with a question")
    asked = [message for message in messages if message.role is Role.USER]
    if not asked:
        raise InputError("the conversation holds no message of the user; add one")
    if not asked[-1].text.strip():
        raise InputError("the input is empty; give the text that is to be answered")
    return messages


def _too_long(limit: int, task: Task) -> InputError:
    return InputError(
        f"the input is longer than the {limit} characters that task {task.name} takes; "
        "shorten it, or raise limits.max_input_characters in the task file"
    )


def _check_parameters(request: Request) -> None:
    if not 0 < len(request.id) <= MAX_ID_CHARACTERS or not request.id.isprintable():
        raise InputError(
            f"the request id must have 1 to {MAX_ID_CHARACTERS} printable characters; give another"
        )
    if request.language is not None and request.language not in LANGUAGES:
        raise InputError(f"the language must be one of {', '.join(LANGUAGES)}; name one, or none")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise InputError("max_output_tokens must be at least 1; raise it")
    if not 0.0 <= request.temperature <= 2.0:  # not of a NaN either
        raise InputError("temperature must be between 0 and 2; correct it")
    if not 0.0 < request.top_p <= 1.0:
        raise InputError("top_p must be above 0 and at most 1; correct it")
    if len(request.stop) > MAX_STOPS or not all(request.stop):
        raise InputError(f"stop takes at most {MAX_STOPS} texts, none of them empty; correct it")
    if len(request.known) > MAX_KNOWN_VALUES or any(
        len(known.value) > MAX_KNOWN_CHARACTERS for known in request.known
    ):
        raise InputError(
            f"known takes at most {MAX_KNOWN_VALUES} values of {MAX_KNOWN_CHARACTERS} characters; give fewer"
        )


def _useful(known: tuple[KnownValue, ...]) -> tuple[KnownValue, ...]:
    """Each value once, cleaned, without placeholders, in the order given."""
    cleaned = (
        KnownValue(entity=value.entity, value=" ".join(clean_text(value.value).split()))
        for value in known
    )
    return tuple(dict.fromkeys(value for value in cleaned if not is_placeholder(value.value)))
