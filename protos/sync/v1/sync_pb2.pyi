from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReleaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_STATE_UNSPECIFIED: _ClassVar[ReleaseState]
    RELEASE_STATE_FETCHING: _ClassVar[ReleaseState]
    RELEASE_STATE_STAGED: _ClassVar[ReleaseState]
    RELEASE_STATE_GATED: _ClassVar[ReleaseState]
    RELEASE_STATE_TRIAL: _ClassVar[ReleaseState]
    RELEASE_STATE_CONFIRMED: _ClassVar[ReleaseState]
    RELEASE_STATE_FAILED: _ClassVar[ReleaseState]
    RELEASE_STATE_ROLLED_BACK: _ClassVar[ReleaseState]
RELEASE_STATE_UNSPECIFIED: ReleaseState
RELEASE_STATE_FETCHING: ReleaseState
RELEASE_STATE_STAGED: ReleaseState
RELEASE_STATE_GATED: ReleaseState
RELEASE_STATE_TRIAL: ReleaseState
RELEASE_STATE_CONFIRMED: ReleaseState
RELEASE_STATE_FAILED: ReleaseState
RELEASE_STATE_ROLLED_BACK: ReleaseState

class GetMetadataRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetMetadataResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class GetBlobResponse(_message.Message):
    __slots__ = ("offset", "total_bytes", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    total_bytes: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WatchDesiredRequest(_message.Message):
    __slots__ = ("channel", "have_version")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    HAVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    channel: str
    have_version: int
    def __init__(self, channel: _Optional[str] = ..., have_version: _Optional[int] = ...) -> None: ...

class WatchDesiredResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class RouteShare(_message.Message):
    __slots__ = ("route", "share")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    route: str
    share: float
    def __init__(self, route: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("request_id", "report_seq", "channel", "release", "state", "previous_release", "manifest_sha256", "error_kind", "latency_p50_ms", "latency_p95_ms", "route_shares", "free_disk_bytes", "free_memory_bytes", "hardware_class", "release_counter", "min_release_counter")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPORT_SEQ_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RELEASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ERROR_KIND_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_MS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_SHARES_FIELD_NUMBER: _ClassVar[int]
    FREE_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_COUNTER_FIELD_NUMBER: _ClassVar[int]
    MIN_RELEASE_COUNTER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    report_seq: int
    channel: str
    release: str
    state: ReleaseState
    previous_release: str
    manifest_sha256: str
    error_kind: str
    latency_p50_ms: float
    latency_p95_ms: float
    route_shares: _containers.RepeatedCompositeFieldContainer[RouteShare]
    free_disk_bytes: int
    free_memory_bytes: int
    hardware_class: str
    release_counter: int
    min_release_counter: int
    def __init__(self, request_id: _Optional[str] = ..., report_seq: _Optional[int] = ..., channel: _Optional[str] = ..., release: _Optional[str] = ..., state: _Optional[_Union[ReleaseState, str]] = ..., previous_release: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., error_kind: _Optional[str] = ..., latency_p50_ms: _Optional[float] = ..., latency_p95_ms: _Optional[float] = ..., route_shares: _Optional[_Iterable[_Union[RouteShare, _Mapping]]] = ..., free_disk_bytes: _Optional[int] = ..., free_memory_bytes: _Optional[int] = ..., hardware_class: _Optional[str] = ..., release_counter: _Optional[int] = ..., min_release_counter: _Optional[int] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("report_seq",)
    REPORT_SEQ_FIELD_NUMBER: _ClassVar[int]
    report_seq: int
    def __init__(self, report_seq: _Optional[int] = ...) -> None: ...
