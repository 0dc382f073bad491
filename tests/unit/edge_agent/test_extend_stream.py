"""Frames over a real gRPC stream on loopback: VERIFY and SPLIT whole, and streams that break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.cloud.client import CloudClient
from edge_agent.cloud.cloud import WireIds
from edge_agent.cloud.extend_stream import ExtendStream
from edge_agent.extend.drafter import Drafter
from edge_agent.extend.split import SplitEnding, SplitRun
from edge_agent.extend.verify import Ending, Verification, VerifyResult
from partition.errors import FrameError
from partition.extend.activations import Codec
from partition.extend.draft_length import RoundCosts
from partition.extend.frame_messages import (
    Opening,
    frame_from_message,
    frame_to_message,
    opening_from_message,
    opening_to_message,
    reply_from_message,
    reply_to_message,
)
from partition.extend.frames import Agreement, Extend, Extended, Mismatch, NeedPrefill, Stale
from partition.extend.split import SplittingSession
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule, choose
from protos.errors import PermissionDeniedError
from protos.inference.v1 import inference_pb2
from tests.frame_server import FrameServer
from tests.frame_simulator import TailServer, VerifyServer
from tests.numpy_stage import NumpyStage
from tests.simulators import make_anonymized

KEY = bytes(range(32))
END = 3
PROMPT = (7, 9, 11, 20, 8)
RULE = SamplingRule(temperature=0.8, seed=11)
AGREEMENT = Agreement(
    fingerprint="f", tokenizer_sha256="t", chat_template_sha256="c", vocabulary_size=50
)
OPENING = Opening(
    session="s1",
    agreement=AGREEMENT,
    stage_start=0,
    stage_end=4,
    sampling=RULE,
    prefix_key=KEY,
)
COSTS = RoundCosts(draft_s=1e-4, verify_base_s=1e-3, verify_per_draft_s=1e-5, round_trip_s=1e-3)


def whole(limit: int) -> tuple[int, ...]:
    stage, ids = NumpyStage(0, 4), list(PROMPT)
    while len(ids) < len(PROMPT) + limit and ids[-1] != END:
        logits = stage.extend("a", np.asarray(ids, np.int32), base_len=0).logits
        assert logits is not None
        ids.append(choose(logits[-1], RULE, position=len(ids)))
    return tuple(ids[len(PROMPT) :])


@contextmanager
def stream_to(port: int, opening: Opening = OPENING) -> Iterator[ExtendStream]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        @contextmanager
        def lend() -> Iterator[grpc.Channel]:
            yield channel

        stream = ExtendStream(lend, opening)
        try:
            yield stream
        finally:
            stream.close()


def verify_server(**options: object) -> FrameServer:
    half = VerifyServer(NumpyStage(0, 4), RULE, key=KEY, end_ids={END})
    return FrameServer(half, AGREEMENT, **options)  # type: ignore[arg-type]


def verify(port: int, *, opening: Opening = OPENING, limit: int = 30) -> VerifyResult:
    with stream_to(port, opening) as stream:
        session = DraftingSession(PROMPT, max_new_tokens=limit, key=KEY, end_ids={END})
        drafter = Drafter(NumpyStage(0, 4, noise=0.3), RULE, name="a", clock=time.monotonic)
        return Verification(
            session, drafter, stream, costs=COSTS, clock=time.monotonic, prompt_timeout_s=5.0
        ).run()


def test_verify_over_grpc_is_the_clouds_text() -> None:
    with verify_server() as server:
        result = verify(server.port)
    assert (result.ending, result.ids) == (Ending.VERIFIED, whole(30))
    assert 0 < result.num_rounds < 30
    assert server.openings == [replace(OPENING, sampling=server.openings[0].sampling)]
    assert server.openings[0].sampling.seed == RULE.seed
    assert result.sent_bytes > 100


def test_a_stream_that_breaks_is_opened_again_and_goes_on() -> None:
    with verify_server() as server:
        server.break_after = 3
        result = verify(server.port)
        assert (result.ending, result.ids) == (Ending.VERIFIED, whole(30))
        assert len(server.openings) == 2


def test_a_server_that_comes_back_without_its_memory_is_prefilled() -> None:
    with verify_server() as server:
        server.break_after = 3
        half = server.half
        assert isinstance(half, VerifyServer)
        handle, seen = half.handle, []

        class Forgetful:
            def handle(self, frame: Extend) -> object:
                seen.append(frame)
                if len(seen) == 4:
                    half.evict()
                return handle(frame)

        server.half = Forgetful()  # type: ignore[assignment]
        result = verify(server.port)
    assert (result.ending, result.ids) == (Ending.VERIFIED, whole(30))


def test_a_server_that_stays_away_leaves_the_device_alone() -> None:
    server = verify_server()
    server.stop()
    result = verify(server.port)
    assert result.ending is Ending.UNVERIFIED
    assert result.unverified_from == 0
    assert len(result.ids) > 0


def test_a_mismatch_is_named() -> None:
    with verify_server() as server:
        other = replace(OPENING, agreement=replace(AGREEMENT, tokenizer_sha256="x"))
        result = verify(server.port, opening=other)
    assert (result.ending, result.mismatch) == (Ending.MISMATCH, "tokenizer_sha256")


def test_a_refusal_for_good_is_an_error() -> None:
    with verify_server() as server:
        server.refuse_with = (grpc.StatusCode.PERMISSION_DENIED, "no")
        with pytest.raises(PermissionDeniedError):
            verify(server.port)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_split_over_grpc_is_the_whole_models_text(k: int) -> None:
    half = TailServer(NumpyStage(k, 4), RULE, end_ids={END})
    opening = replace(OPENING, stage_start=k, codec=Codec.FLOAT32, prefix_key=b"")
    with FrameServer(half, AGREEMENT) as server, stream_to(server.port, opening) as stream:
        session = SplittingSession(PROMPT, max_new_tokens=12, key=KEY, end_ids={END})
        result = SplitRun(
            session,
            NumpyStage(0, k),
            stream,
            codec=Codec.FLOAT32,
            clock=time.monotonic,
            name="a",
            chunk_tokens=2,
        ).run()
        assert server.openings[0].prefix_key == b""
    assert (result.ending, result.ids) == (SplitEnding.COMPLETE, whole(12))


@pytest.mark.parametrize(
    "reply",
    [
        Extended(
            round=3,
            len_after=9,
            num_accepted=2,
            next_id=5,
            end_of_sequence=True,
            compute_us=7,
            queue_us=8,
        ),
        NeedPrefill(round=3, known_len=4),
        Stale(round=3, last_round=5),
        Mismatch(field="fingerprint"),
    ],
)
def test_replies_survive_the_wire(reply: object) -> None:
    wire = reply_to_message(reply).SerializeToString()  # type: ignore[arg-type]
    assert reply_from_message(inference_pb2.ExtendResponse.FromString(wire)) == reply


def test_frames_and_openings_survive_the_wire() -> None:
    frame = Extend(
        round=2,
        base_len=5,
        prefix_hash=bytes(8),
        ids=(1, 2),
        num_positions=2,
        draft_len=1,
        deadline_ms=9,
    )
    wire = frame_to_message(frame).SerializeToString()
    assert frame_from_message(inference_pb2.ExtendRequest.FromString(wire)) == frame
    opening = replace(OPENING, sampling=SamplingRule(temperature=0.5, top_k=4, top_p=0.5, seed=2))
    wire = opening_to_message(opening).SerializeToString()
    assert opening_from_message(inference_pb2.ExtendRequest.FromString(wire)) == opening


@pytest.mark.parametrize(
    "change",
    [
        {"session": ""},
        {"session": "x" * 65},
        {"stage_end": 0},
        {"stage_start": 2},
        {"codec": Codec.INT8},
        {"prefix_key": b"short"},
        {"prefix_key": bytes(65)},
    ],
)
def test_a_hostile_opening_is_refused(change: dict[str, object]) -> None:
    message = opening_to_message(replace(OPENING, **change))  # type: ignore[arg-type]
    with pytest.raises(FrameError):
        opening_from_message(message)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_hostile_bytes_raise_one_error(data: bytes) -> None:
    try:
        message = inference_pb2.ExtendRequest.FromString(data)
    except Exception:  # protobuf's own DecodeError: gRPC answers it before we see anything
        return
    for read in (opening_from_message, frame_from_message):
        try:
            read(message)
        except FrameError:
            continue


def test_the_client_opens_sessions_for_anonymised_requests_only() -> None:
    client = CloudClient("localhost:1", wire_ids=WireIds(bytes(32)), insecure_loopback=True)
    with pytest.raises(TypeError, match="only Anonymized"):
        client.open_frames("text", OPENING)  # type: ignore[arg-type]
    assert client.open_frames(make_anonymized(), OPENING).is_reachable
    client.close()
