from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CORRECT: _ClassVar[Verdict]
    VERDICT_WRONG: _ClassVar[Verdict]
    VERDICT_AGREES_WITH_CLOUD: _ClassVar[Verdict]
    VERDICT_DISAGREES_WITH_CLOUD: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_CORRECT: Verdict
VERDICT_WRONG: Verdict
VERDICT_AGREES_WITH_CLOUD: Verdict
VERDICT_DISAGREES_WITH_CLOUD: Verdict

class ReportRequest(_message.Message):
    __slots__ = ("request_id", "outcomes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, request_id: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("answered_request_id", "task", "route", "score", "fingerprint", "verdict", "reviewed_label", "answered_unix_ms")
    ANSWERED_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_LABEL_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    answered_request_id: str
    task: str
    route: str
    score: float
    fingerprint: str
    verdict: Verdict
    reviewed_label: str
    answered_unix_ms: int
    def __init__(self, answered_request_id: _Optional[str] = ..., task: _Optional[str] = ..., route: _Optional[str] = ..., score: _Optional[float] = ..., fingerprint: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reviewed_label: _Optional[str] = ..., answered_unix_ms: _Optional[int] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("num_stored",)
    NUM_STORED_FIELD_NUMBER: _ClassVar[int]
    num_stored: int
    def __init__(self, num_stored: _Optional[int] = ...) -> None: ...
