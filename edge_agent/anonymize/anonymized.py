"""``Anonymized``: the only thing that may leave the device.

One place makes one: the anonymizer, after its residual scan. The class cannot be subclassed, pickled, copied or made
without the seal, so ``type(value) is Anonymized`` says that the text went through the pipeline in this process. That guards
against mistakes, not against code of the same process that wants to cheat.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn, SupportsIndex, final

from edge_agent.flow import Entity
from partition.task import Message, Task

_SEAL = object()


@final
class Anonymized:
    """One request's messages with surrogates in place of identifiers, not yet rendered into the task's prompt."""

    __slots__ = ("_seal", "language", "messages", "num_replaced", "request_id", "task")

    request_id: str
    task: Task
    messages: tuple[Message, ...]
    num_replaced: Mapping[Entity, int]
    language: str
    _seal: object

    def __init__(
        self,
        seal: object,
        *,
        request_id: str,
        task: Task,
        messages: tuple[Message, ...],
        num_replaced: Mapping[Entity, int],
        language: str,
    ) -> None:
        if seal is not _SEAL:
            raise TypeError("only the anonymizer makes an Anonymized; call Anonymizer.anonymize")
        values = {
            "request_id": request_id,
            "task": task,
            "messages": messages,
            "num_replaced": MappingProxyType(dict(num_replaced)),
            "language": language,
            "_seal": seal,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Anonymized has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("an Anonymized is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("an Anonymized is frozen")

    def __repr__(self) -> str:
        count = sum(self.num_replaced.values())
        return f"Anonymized(request_id={self.request_id!r}, {count} surrogates)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("an Anonymized is not pickled; anonymize the request again")

    def __copy__(self) -> NoReturn:
        raise TypeError("an Anonymized is not copied; it is frozen, pass it on")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("an Anonymized is not copied; it is frozen, pass it on")


def is_sealed(value: object) -> bool:
    """Whether this is an ``Anonymized`` that the anonymizer of this process made."""
    return type(value) is Anonymized and getattr(value, "_seal", None) is _SEAL
