"""Frames from anybody: whatever a caller with a certificate sends on Extend, the service refuses or answers it, and goes on."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partition.extend.activations import Codec, encode
from partition.extend.frame_messages import opening_to_message
from partition.extend.frames import prefix_hash
from partition.generation.sampling import SamplingRule
from protos.errors import InvalidRequestError, from_rpc_error
from protos.inference.v1 import inference_pb2
from protos.request_id import new_request_id
from tests.cloud_harness import Client, RunningCloud, Site, ask
from tests.integration.test_cloud_sessions import KEY, cloud_text, opening, split_opening

EXTEND = "/tandem.inference.v1.InferenceService/Extend"
# Asked for by the caller himself: a frame names its deadline, and one beyond the context is too large.
POLITE = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
ROWS = encode(np.ones((2, 32), np.float32), Codec.FLOAT32)
NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@st.composite
def frames(draw: Any, *, is_split: bool) -> bytes:
    """Sense in most fields and nonsense in a few, so that what is wrong gets past the first checks."""

    def mostly(sense: Any, nonsense: st.SearchStrategy[Any]) -> Any:
        return draw(nonsense) if draw(st.integers(0, 7)) == 7 else sense

    ids: list[int] = [] if is_split else draw(st.lists(st.integers(0, 250), min_size=1, max_size=8))
    ids = [mostly(token, st.integers(251, 2**32 - 1)) for token in ids]
    rows = ROWS if is_split else b""
    if is_split and draw(st.booleans()):
        at = draw(st.integers(0, len(rows) - 1))
        rows = rows[:at] + bytes([draw(st.integers(0, 255))]) + rows[at + 1 :]
    frame = inference_pb2.ExtendFrame(
        round=mostly(draw(st.integers(1, 3)), NUMBERS),
        base_len=mostly(0, NUMBERS),
        prefix_hash=mostly(prefix_hash(KEY, ()), st.binary(max_size=40)),
        ids=mostly(ids, st.just([])),
        activations=mostly(rows, st.sampled_from([b"", ROWS, ROWS[:-3], b"\xff" * 9])),
        num_positions=mostly(2 if is_split else len(ids), NUMBERS),
        draft_len=mostly(draw(st.integers(0, max(0, len(ids) - 1))), NUMBERS),
        row_hashes=mostly(
            [b"12345678", b"abcdefgh"] if is_split else [],
            st.lists(st.binary(max_size=9), max_size=3),
        ),
        deadline_ms=mostly(0, NUMBERS),
    )
    wire: bytes = inference_pb2.ExtendRequest(extend=frame).SerializeToString()
    if draw(st.integers(0, 3)):
        return wire
    cut = draw(st.integers(0, len(wire)))
    return wire[:cut] + draw(st.binary(max_size=6)) + wire[cut + draw(st.integers(0, 3)) :]


async def code_of(client: Client, *messages: bytes) -> grpc.StatusCode:
    call = client.channel.stream_stream(EXTEND)(iter(messages), timeout=10)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        from_rpc_error(error)  # a status that the device can read
    code: grpc.StatusCode = await call.code()
    return code


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.booleans().flatmap(
        lambda is_split: st.tuples(
            st.just(is_split), st.lists(frames(is_split=is_split), min_size=1, max_size=3)
        )
    )
)
async def test_fuzzed_frames_are_refused_or_answered(
    client: Client, caplog: pytest.LogCaptureFixture, fuzz: tuple[bool, list[bytes]]
) -> None:
    caplog.set_level(logging.DEBUG)
    is_split, data = fuzz
    opened = await (split_opening(client, 2) if is_split else opening(client))
    opened = replace(opened, session=new_request_id())  # in one of before, they would be old
    assert await code_of(client, opening_to_message(opened).SerializeToString(), *data) in POLITE
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    caplog.clear()


TRICKS = (
    "../../../etc/passwd",
    "s'; DROP TABLE saved_sessions; --",
    '" OR 1=1 --',
    "%s%n{0}$(reboot)`id`",
    "a\x00b",
    "\r\nset-cookie: x",
)


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_name_is_only_a_name(
    cloud: RunningCloud,
    client: Client,
    site: Site,
    trick: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    before = {path for path in site.root.rglob("*") if "sqlite" not in path.name}
    text = await cloud_text(client, SamplingRule())
    opened = replace(await opening(client), session=trick)
    frame = inference_pb2.ExtendFrame(
        round=1, prefix_hash=prefix_hash(KEY, ()), ids=[1, 2], num_positions=2
    )
    messages = (opening_to_message(opened), inference_pb2.ExtendRequest(extend=frame))
    wire = [message.SerializeToString() for message in messages]
    assert await code_of(client, *wire) is grpc.StatusCode.OK  # known under this name, and no more
    await cloud.server._housekeeping.save_changed()
    for field in ("request_id", "task", "resume_token"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.generate(ask(**{field: trick}))
        assert isinstance(from_rpc_error(caught.value), InvalidRequestError)
    assert await cloud_text(client, SamplingRule()) == text
    assert {path for path in site.root.rglob("*") if "sqlite" not in path.name} == before
    assert trick not in caplog.text
