from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]
    ROLE_TOOL: _ClassVar[Role]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_LABEL: _ClassVar[FinishReason]

class ActivationCodec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTIVATION_CODEC_UNSPECIFIED: _ClassVar[ActivationCodec]
    ACTIVATION_CODEC_FLOAT32: _ClassVar[ActivationCodec]
    ACTIVATION_CODEC_FLOAT16: _ClassVar[ActivationCodec]
    ACTIVATION_CODEC_INT8_BLOCK: _ClassVar[ActivationCodec]
    ACTIVATION_CODEC_INT4_BLOCK: _ClassVar[ActivationCodec]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]

class Want(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WANT_UNSPECIFIED: _ClassVar[Want]
    WANT_HIDDEN: _ClassVar[Want]
    WANT_LAST_LOGITS: _ClassVar[Want]
    WANT_SAMPLED: _ClassVar[Want]
    WANT_LOG_PROBABILITIES: _ClassVar[Want]
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
ROLE_TOOL: Role
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_LABEL: FinishReason
ACTIVATION_CODEC_UNSPECIFIED: ActivationCodec
ACTIVATION_CODEC_FLOAT32: ActivationCodec
ACTIVATION_CODEC_FLOAT16: ActivationCodec
ACTIVATION_CODEC_INT8_BLOCK: ActivationCodec
ACTIVATION_CODEC_INT4_BLOCK: ActivationCodec
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_INT64: DataType
WANT_UNSPECIFIED: Want
WANT_HIDDEN: Want
WANT_LAST_LOGITS: Want
WANT_SAMPLED: Want
WANT_LOG_PROBABILITIES: Want

class Message(_message.Message):
    __slots__ = ("role", "text")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    role: Role
    text: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "model", "messages", "sampling", "max_output_tokens", "stop", "labels", "resume_token", "task")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    sampling: Sampling
    max_output_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    resume_token: str
    task: str
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_output_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., resume_token: _Optional[str] = ..., task: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "delta", "draining", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: Started
    delta: Delta
    draining: Draining
    finished: Finished
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("model", "fingerprint", "replayed", "server_us")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    SERVER_US_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    replayed: bool
    server_us: int
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., replayed: _Optional[bool] = ..., server_us: _Optional[int] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "num_tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    num_tokens: int
    def __init__(self, text: _Optional[str] = ..., num_tokens: _Optional[int] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("resume_token",)
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    def __init__(self, resume_token: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "text", "usage", "label_scores")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SCORES_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    text: str
    usage: Usage
    label_scores: _containers.RepeatedCompositeFieldContainer[LabelScore]
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., text: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., label_scores: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "log_probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    log_probability: float
    def __init__(self, label: _Optional[str] = ..., log_probability: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "cached_tokens", "compute_us", "queue_us", "cost_micro_usd")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COST_MICRO_USD_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    compute_us: int
    queue_us: int
    cost_micro_usd: int
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., compute_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., cost_micro_usd: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("padding", "reply_bytes")
    PADDING_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    reply_bytes: int
    def __init__(self, padding: _Optional[bytes] = ..., reply_bytes: _Optional[int] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("padding", "server_us")
    PADDING_FIELD_NUMBER: _ClassVar[int]
    SERVER_US_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    server_us: int
    def __init__(self, padding: _Optional[bytes] = ..., server_us: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "fingerprint", "tokenizer_sha256", "chat_template_sha256", "vocabulary_size", "num_layers", "hidden_size", "context_tokens", "codecs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    tokenizer_sha256: str
    chat_template_sha256: str
    vocabulary_size: int
    num_layers: int
    hidden_size: int
    context_tokens: int
    codecs: _containers.RepeatedScalarFieldContainer[ActivationCodec]
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., chat_template_sha256: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., num_layers: _Optional[int] = ..., hidden_size: _Optional[int] = ..., context_tokens: _Optional[int] = ..., codecs: _Optional[_Iterable[_Union[ActivationCodec, str]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data", "crc32")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    crc32: int
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("open", "extend")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    open: ExtendOpen
    extend: ExtendFrame
    def __init__(self, open: _Optional[_Union[ExtendOpen, _Mapping]] = ..., extend: _Optional[_Union[ExtendFrame, _Mapping]] = ...) -> None: ...

class ExtendOpen(_message.Message):
    __slots__ = ("session", "fingerprint", "tokenizer_sha256", "chat_template_sha256", "vocabulary_size", "stage_start", "stage_end", "codec", "sampling", "prefix_key")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    STAGE_START_FIELD_NUMBER: _ClassVar[int]
    STAGE_END_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PREFIX_KEY_FIELD_NUMBER: _ClassVar[int]
    session: str
    fingerprint: str
    tokenizer_sha256: str
    chat_template_sha256: str
    vocabulary_size: int
    stage_start: int
    stage_end: int
    codec: ActivationCodec
    sampling: Sampling
    prefix_key: bytes
    def __init__(self, session: _Optional[str] = ..., fingerprint: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., chat_template_sha256: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., stage_start: _Optional[int] = ..., stage_end: _Optional[int] = ..., codec: _Optional[_Union[ActivationCodec, str]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., prefix_key: _Optional[bytes] = ...) -> None: ...

class ExtendFrame(_message.Message):
    __slots__ = ("round", "base_len", "prefix_hash", "ids", "activations", "num_positions", "draft_len", "want", "deadline_ms", "row_hashes")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASH_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_LEN_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    ROW_HASHES_FIELD_NUMBER: _ClassVar[int]
    round: int
    base_len: int
    prefix_hash: bytes
    ids: _containers.RepeatedScalarFieldContainer[int]
    activations: bytes
    num_positions: int
    draft_len: int
    want: _containers.RepeatedScalarFieldContainer[Want]
    deadline_ms: int
    row_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, round: _Optional[int] = ..., base_len: _Optional[int] = ..., prefix_hash: _Optional[bytes] = ..., ids: _Optional[_Iterable[int]] = ..., activations: _Optional[bytes] = ..., num_positions: _Optional[int] = ..., draft_len: _Optional[int] = ..., want: _Optional[_Iterable[_Union[Want, str]]] = ..., deadline_ms: _Optional[int] = ..., row_hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("opened", "reply", "need_prefill", "stale", "mismatch", "draining")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    NEED_PREFILL_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    MISMATCH_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    opened: ExtendOpened
    reply: ExtendReply
    need_prefill: NeedPrefill
    stale: Stale
    mismatch: Mismatch
    draining: Draining
    def __init__(self, opened: _Optional[_Union[ExtendOpened, _Mapping]] = ..., reply: _Optional[_Union[ExtendReply, _Mapping]] = ..., need_prefill: _Optional[_Union[NeedPrefill, _Mapping]] = ..., stale: _Optional[_Union[Stale, _Mapping]] = ..., mismatch: _Optional[_Union[Mismatch, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class ExtendOpened(_message.Message):
    __slots__ = ("session", "known_len")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LEN_FIELD_NUMBER: _ClassVar[int]
    session: str
    known_len: int
    def __init__(self, session: _Optional[str] = ..., known_len: _Optional[int] = ...) -> None: ...

class ExtendReply(_message.Message):
    __slots__ = ("round", "len_after", "num_accepted", "next_id", "log_probabilities", "end_of_sequence", "compute_us", "queue_us", "hidden", "last_logits", "sampled_ids")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEN_AFTER_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    END_OF_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LAST_LOGITS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_IDS_FIELD_NUMBER: _ClassVar[int]
    round: int
    len_after: int
    num_accepted: int
    next_id: int
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    end_of_sequence: bool
    compute_us: int
    queue_us: int
    hidden: Tensor
    last_logits: Tensor
    sampled_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, round: _Optional[int] = ..., len_after: _Optional[int] = ..., num_accepted: _Optional[int] = ..., next_id: _Optional[int] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., end_of_sequence: _Optional[bool] = ..., compute_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., hidden: _Optional[_Union[Tensor, _Mapping]] = ..., last_logits: _Optional[_Union[Tensor, _Mapping]] = ..., sampled_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class NeedPrefill(_message.Message):
    __slots__ = ("round", "known_len")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LEN_FIELD_NUMBER: _ClassVar[int]
    round: int
    known_len: int
    def __init__(self, round: _Optional[int] = ..., known_len: _Optional[int] = ...) -> None: ...

class Stale(_message.Message):
    __slots__ = ("round", "last_round")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    last_round: int
    def __init__(self, round: _Optional[int] = ..., last_round: _Optional[int] = ...) -> None: ...

class Mismatch(_message.Message):
    __slots__ = ("field",)
    FIELD_FIELD_NUMBER: _ClassVar[int]
    field: str
    def __init__(self, field: _Optional[str] = ...) -> None: ...
