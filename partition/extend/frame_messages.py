"""Frames of VERIFY and SPLIT to wire messages and back; the one translation that both ends use."""

from __future__ import annotations

from dataclasses import dataclass, field

from partition.errors import FrameError
from partition.extend.activations import Codec
from partition.extend.frames import Agreement, Extend, Extended, Mismatch, NeedPrefill, Reply, Stale
from partition.generation.sampling import SamplingRule
from protos.inference.v1 import inference_pb2

MAX_SESSION_CHARACTERS = 64
_CODEC_OFFSET = 1  # 0 is "unspecified" on the wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first frame of a stream."""

    session: str
    agreement: Agreement
    stage_start: int  # layers [stage_start, stage_end) run in the cloud; 0: it gets token ids
    stage_end: int
    codec: Codec | None = None  # of hidden states; None for token ids
    sampling: SamplingRule
    prefix_key: bytes = field(
        default=b"", repr=False
    )  # empty for SPLIT: the key stays on the device

    @property
    def is_split(self) -> bool:
        """Whether hidden states follow, not token ids."""
        return self.stage_start > 0


def opening_to_message(opening: Opening) -> inference_pb2.ExtendRequest:
    """Write the first frame."""
    agreement, sampling = opening.agreement, opening.sampling
    return inference_pb2.ExtendRequest(
        open=inference_pb2.ExtendOpen(
            session=opening.session,
            fingerprint=agreement.fingerprint,
            tokenizer_sha256=agreement.tokenizer_sha256,
            chat_template_sha256=agreement.chat_template_sha256,
            vocabulary_size=agreement.vocabulary_size,
            stage_start=opening.stage_start,
            stage_end=opening.stage_end,
            codec=0 if opening.codec is None else opening.codec + _CODEC_OFFSET,  # type: ignore[arg-type]
            sampling=inference_pb2.Sampling(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed & (1 << 64) - 1,
            ),
            prefix_key=opening.prefix_key,
        )
    )


def opening_from_message(message: inference_pb2.ExtendRequest) -> Opening:
    """Read the first frame; the message may be anybody's.

    Raises:
        FrameError: It is no such frame, or contradicts itself.
    """
    if message.WhichOneof("frame") != "open":
        raise FrameError("the first frame of a stream opens a session; send it first")
    wire = message.open
    if not 0 < len(wire.session) <= MAX_SESSION_CHARACTERS or not wire.session.isascii():
        raise FrameError("a session's name has 1 to 64 ASCII characters")
    codec = wire.codec - _CODEC_OFFSET if wire.codec else None
    if codec is not None and codec not in Codec.__members__.values():
        raise FrameError("the codec of hidden states is unknown; update both ends")
    if not wire.stage_start < wire.stage_end or (wire.stage_start > 0) is (codec is None):
        raise FrameError("a stage that begins after layer 0 needs a codec, and only such a one")
    # The key of a SPLIT stays on the device; BLAKE2b takes 64 bytes at most.
    wanted = (0, 0) if wire.stage_start > 0 else (16, 64)
    if not wanted[0] <= len(wire.prefix_key) <= wanted[1]:
        raise FrameError("VERIFY sends a prefix key of 16 to 64 bytes, SPLIT none")
    sampling = wire.sampling
    if not 0 <= sampling.temperature <= 100 or not 0 <= sampling.top_p <= 1:
        raise FrameError("sampling needs 0 <= temperature <= 100 and 0 <= top_p <= 1")
    return Opening(
        session=wire.session,
        agreement=Agreement(
            fingerprint=wire.fingerprint,
            tokenizer_sha256=wire.tokenizer_sha256,
            chat_template_sha256=wire.chat_template_sha256,
            vocabulary_size=wire.vocabulary_size,
        ),
        stage_start=wire.stage_start,
        stage_end=wire.stage_end,
        codec=None if codec is None else Codec(codec),
        sampling=SamplingRule(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p or 1.0,
            seed=sampling.seed,
        ),
        prefix_key=wire.prefix_key,
    )


def frame_to_message(frame: Extend) -> inference_pb2.ExtendRequest:
    """Write a frame of positions."""
    return inference_pb2.ExtendRequest(
        extend=inference_pb2.ExtendFrame(
            round=frame.round,
            base_len=frame.base_len,
            prefix_hash=frame.prefix_hash,
            ids=frame.ids,
            activations=frame.activations,
            num_positions=frame.num_positions,
            draft_len=frame.draft_len,
            deadline_ms=frame.deadline_ms,
            row_hashes=frame.row_hashes,
        )
    )


def frame_from_message(message: inference_pb2.ExtendRequest) -> Extend:
    """Read a frame of positions; its contents are still to be checked against the model.

    Raises:
        FrameError: It is no such frame.
    """
    if message.WhichOneof("frame") != "extend":
        raise FrameError("after the first frame of a stream only positions follow")
    wire = message.extend
    return Extend(
        round=wire.round,
        base_len=wire.base_len,
        prefix_hash=wire.prefix_hash,
        ids=tuple(wire.ids),
        activations=wire.activations,
        num_positions=wire.num_positions,
        draft_len=wire.draft_len,
        row_hashes=tuple(wire.row_hashes),
        deadline_ms=wire.deadline_ms,
    )


def reply_to_message(reply: Reply) -> inference_pb2.ExtendResponse:
    """Write a reply."""
    if isinstance(reply, Extended):
        return inference_pb2.ExtendResponse(
            reply=inference_pb2.ExtendReply(
                round=reply.round,
                len_after=reply.len_after,
                num_accepted=reply.num_accepted,
                next_id=reply.next_id,
                end_of_sequence=reply.end_of_sequence,
                compute_us=reply.compute_us,
                queue_us=reply.queue_us,
            )
        )
    if isinstance(reply, NeedPrefill):
        return inference_pb2.ExtendResponse(
            need_prefill=inference_pb2.NeedPrefill(round=reply.round, known_len=reply.known_len)
        )
    if isinstance(reply, Stale):
        return inference_pb2.ExtendResponse(
            stale=inference_pb2.Stale(round=reply.round, last_round=reply.last_round)
        )
    return inference_pb2.ExtendResponse(mismatch=inference_pb2.Mismatch(field=reply.field))


def reply_from_message(message: inference_pb2.ExtendResponse) -> Reply | None:
    """Read a reply; None for what is not one of a frame (opened, draining)."""
    kind = message.WhichOneof("frame")
    if kind == "reply":
        wire = message.reply
        return Extended(
            round=wire.round,
            len_after=wire.len_after,
            num_accepted=wire.num_accepted,
            next_id=wire.next_id,
            end_of_sequence=wire.end_of_sequence,
            compute_us=wire.compute_us,
            queue_us=wire.queue_us,
        )
    if kind == "need_prefill":
        return NeedPrefill(
            round=message.need_prefill.round, known_len=message.need_prefill.known_len
        )
    if kind == "stale":
        return Stale(round=message.stale.round, last_round=message.stale.last_round)
    if kind == "mismatch":
        return Mismatch(field=message.mismatch.field)
    return None
