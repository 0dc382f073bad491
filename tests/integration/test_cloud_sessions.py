"""VERIFY against a real cloud service: the text is the cloud's own, whatever the device drafts."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from partition.extend.activations import Codec, encode
from partition.extend.frame_messages import (
    Opening,
    frame_to_message,
    opening_to_message,
    reply_from_message,
)
from partition.extend.frames import Extend, Extended, Mismatch, NeedPrefill, Reply, Stale
from partition.extend.model_card import card_from_message
from partition.extend.split import SplittingSession
from partition.extend.verify import DraftingSession
from partition.generation.sampling import SamplingRule
from partition.task import Message, Role
from partition.text.tokenizer import Tokenizer
from protos.errors import (
    InvalidRequestError,
    UnsupportedError,
    WireError,
    from_rpc_error,
)
from protos.inference.v1 import inference_pb2
from tests.cloud_harness import (
    OTHER,
    SCANNER,
    Client,
    RunningCloud,
    Site,
    ask,
    running_cloud,
    wait_until,
)

KEY = b"k" * 32
TEXT = "Is the heart enlarged?"
LENGTH = 40
SEEDED = SamplingRule(temperature=1.0, top_k=20, seed=11)


async def opening(client: Client, name: str = "s", rule: SamplingRule = SEEDED) -> Opening:
    found = await client.inference.GetModel(inference_pb2.GetModelRequest(), timeout=10)
    card = card_from_message(found)
    return Opening(
        session=name,
        agreement=card.agreement,
        stage_start=0,
        stage_end=card.num_layers,
        sampling=rule,
        prefix_key=KEY,
    )


class FrameStream:
    """One Extend stream, frame by frame."""

    def __init__(self, client: Client, opened: Opening) -> None:
        self._call: Any = client.inference.Extend(timeout=30)
        self._opening = opened

    async def __aenter__(self) -> FrameStream:
        await self._call.write(opening_to_message(self._opening))
        self.first = await self._call.read()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()

    async def exchange(self, frame: Extend) -> Reply:
        await self._call.write(frame_to_message(frame))
        return await self.read()

    async def read(self) -> Reply:
        message = await self._call.read()
        assert message is not grpc.aio.EOF, await self._call.code()
        reply = reply_from_message(message)
        assert reply is not None
        return reply


def prompt_ids(model: Path) -> tuple[int, ...]:
    tokenizer = Tokenizer.from_folder(model)
    return tokenizer.encode(tokenizer.chat.render([Message(role=Role.USER, text=TEXT)]))


def drafting(model: Path) -> DraftingSession:
    return DraftingSession(prompt_ids(model), max_new_tokens=LENGTH, key=KEY, end_ids=frozenset())


async def cloud_text(client: Client, rule: SamplingRule) -> str:
    sampling = inference_pb2.Sampling(
        temperature=rule.temperature, top_k=rule.top_k, top_p=rule.top_p, seed=rule.seed
    )
    request = ask(TEXT, max_output_tokens=LENGTH, sampling=sampling)
    return (await client.generate(request))[-1].finished.text


@pytest.mark.parametrize("rule", [SamplingRule(), SEEDED, replace(SEEDED, top_p=0.9, top_k=0)])
async def test_verified_text_is_the_clouds_own(
    client: Client, model: Path, rule: SamplingRule
) -> None:
    expected = await cloud_text(client, rule)
    decode = Tokenizer.from_folder(model).decode
    target: tuple[int, ...] = (7,) * LENGTH  # at first every draft is wrong
    for name, is_right in (("never", 0.0), ("half", 0.5), ("always", 1.0)):
        session, chance = drafting(model), random.Random(3)
        accepted = 0
        async with FrameStream(client, await opening(client, name, rule)) as stream:
            while not session.is_finished:
                done = len(session.answer)
                drafts = [
                    token if chance.random() < is_right else 7
                    for token in target[done : done + min(5, session.most_drafts)]
                ]
                reply = await stream.exchange(session.open_frame(drafts))
                assert isinstance(reply, Extended)
                accepted += reply.num_accepted
                session.take(reply)
        assert decode(session.answer) == expected
        target = session.answer
        if is_right == 1.0:
            assert accepted > LENGTH // 2


async def test_frames_are_idempotent_and_ordered(client: Client, model: Path) -> None:
    session = drafting(model)
    async with FrameStream(client, await opening(client)) as stream:
        first = session.open_frame()
        reply = await stream.exchange(first)
        assert await stream.exchange(first) == reply
        session.take(reply)
        second = session.open_frame([1, 2, 3])
        reply = await stream.exchange(second)
        assert await stream.exchange(first) == Stale(round=1, last_round=2)
        assert await stream.exchange(second) == reply
        forged = replace(second, round=9, prefix_hash=b"\0" * 8)
        assert await stream.exchange(forged) == NeedPrefill(round=9, known_len=0)
        ahead = replace(second, round=10, base_len=10_000 // 4)
        assert isinstance(await stream.exchange(ahead), NeedPrefill)


async def test_a_session_goes_on_over_a_new_stream(client: Client, model: Path) -> None:
    expected = await cloud_text(client, SEEDED)
    session, opened = drafting(model), await opening(client)
    while not session.is_finished:
        async with FrameStream(client, opened) as stream:
            for _ in range(7):
                if not session.is_finished:
                    session.take(await stream.exchange(session.in_flight or session.open_frame()))
    assert Tokenizer.from_folder(model).decode(session.answer) == expected
    assert session.num_prefills == 0


async def test_a_session_goes_on_after_a_restart(site: Site, model: Path) -> None:
    session = drafting(model)
    for limit in (10, LENGTH):
        async with running_cloud(site) as cloud, cloud.client() as client:
            expected = await cloud_text(client, SEEDED)
            async with FrameStream(client, await opening(client)) as stream:
                assert stream.first.opened.known_len == max(0, len(session.ids) - 1) * (limit > 10)
                while len(session.answer) < limit:
                    session.take(await stream.exchange(session.open_frame()))
    assert session.num_prefills == 0
    assert Tokenizer.from_folder(model).decode(session.answer) == expected


async def test_saved_ids_are_sealed_and_belong_to_their_opening(site: Site, model: Path) -> None:
    session = drafting(model)
    async with running_cloud(site) as cloud, cloud.client() as client:
        opened = await opening(client)
        async with FrameStream(client, opened) as stream:
            for _ in range(5):
                session.take(await stream.exchange(session.open_frame()))
    database = b"".join(path.read_bytes() for path in (site.root / "state").glob("state.sq*"))
    assert np.asarray(session.ids[:8], dtype="<u4").tobytes() not in database
    async with running_cloud(site) as cloud:
        changes: list[tuple[Any, Opening, int]] = [
            (OTHER, opened, 0),
            (SCANNER, replace(opened, prefix_key=b"x" * 32), 0),
            (SCANNER, replace(opened, sampling=SamplingRule()), 0),
            (SCANNER, opened, len(session.ids) - 1),
        ]
        for identity, words, known_len in changes:
            async with cloud.client(identity) as client, FrameStream(client, words) as stream:
                assert stream.first.opened.known_len == known_len


async def test_a_server_that_lost_a_session_asks_for_the_ids_again(site: Site, model: Path) -> None:
    session = drafting(model)
    for limit in (10, LENGTH):
        async with running_cloud(site) as cloud, cloud.client() as client:
            expected = await cloud_text(client, SEEDED)
            async with FrameStream(client, await opening(client)) as stream:
                while len(session.answer) < limit:
                    session.take(await stream.exchange(session.open_frame()))
        with sqlite3.connect(site.root / "state/state.sqlite3") as database:
            database.execute("DELETE FROM sessions")
    assert session.num_prefills == 1
    assert Tokenizer.from_folder(model).decode(session.answer) == expected


async def test_fifty_sessions_share_little_memory(site: Site, model: Path) -> None:
    engine = {"kv_mib": 1, "max_sequences": 4}
    async with running_cloud(site, engine=engine) as cloud, cloud.client() as client:
        expected = await cloud_text(client, SEEDED)

        async def one(number: int) -> str:
            session = drafting(model)
            async with FrameStream(client, await opening(client, f"s{number}")) as stream:
                while not session.is_finished:
                    drafts = [number % 250] * min(3, session.most_drafts)
                    session.take(await stream.exchange(session.open_frame(drafts)))
            return Tokenizer.from_folder(model).decode(session.answer)

        texts = await asyncio.gather(*(one(number) for number in range(50)))
        assert set(texts) == {expected}
        assert len(cloud.server._parts.sessions) == 50
        cloud.server._parts.sessions.check_integrity()


async def test_another_tenants_session_is_another_one(cloud: RunningCloud, model: Path) -> None:
    session = drafting(model)
    async with cloud.client() as client, cloud.client(OTHER) as other:
        opened = await opening(client)
        async with FrameStream(client, opened) as stream:
            session.take(await stream.exchange(session.open_frame()))
        async with FrameStream(other, opened) as stream:
            assert stream.first.opened.known_len == 0
            reply = await stream.exchange(session.open_frame([5]))
            assert isinstance(reply, NeedPrefill)


@pytest.mark.parametrize(
    "field",
    ["fingerprint", "tokenizer_sha256", "chat_template_sha256", "vocabulary_size", "stage_end"],
)
async def test_two_sides_that_differ_are_told_where(client: Client, field: str) -> None:
    opened = await opening(client)
    if field == "stage_end":
        opened = replace(opened, stage_end=3)
    else:
        value: Any = 1 if field == "vocabulary_size" else "0" * 64
        opened = replace(opened, agreement=replace(opened.agreement, **{field: value}))
    async with FrameStream(client, opened) as stream:
        assert reply_from_message(stream.first) == Mismatch(field=field)


async def refusal(client: Client, *messages: inference_pb2.ExtendRequest) -> WireError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in client.inference.Extend(iter(messages), timeout=10):
            pass
    return from_rpc_error(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"ids": ()},
        {"ids": (1, 2, 3), "num_positions": 2},
        {"ids": (1, 2), "num_positions": 2, "draft_len": 2},
        {"ids": (4_000_000_000,), "num_positions": 1},
        {"ids": (1,) * 5000, "num_positions": 5000},
        {"ids": (1,), "num_positions": 1, "activations": b"x"},
        {"ids": (1,) * 100, "num_positions": 100, "draft_len": 90},
    ],
)
async def test_malformed_frames_are_refused(client: Client, bad: dict[str, Any]) -> None:
    frame = replace(Extend(round=1, base_len=0, prefix_hash=b"", ids=(1,), num_positions=1), **bad)
    opened = opening_to_message(await opening(client))
    assert isinstance(await refusal(client, opened, frame_to_message(frame)), InvalidRequestError)


async def test_streams_that_begin_wrongly_are_refused(client: Client) -> None:
    good = await opening(client)
    frame = frame_to_message(
        Extend(round=1, base_len=0, prefix_hash=b"", ids=(1,), num_positions=1)
    )
    assert isinstance(await refusal(client, frame), InvalidRequestError)
    empty = inference_pb2.ExtendRequest()
    assert isinstance(await refusal(client, empty), InvalidRequestError)
    keyless = opening_to_message(replace(good, prefix_key=b""))
    assert isinstance(await refusal(client, keyless), InvalidRequestError)
    twice = opening_to_message(good)
    assert isinstance(await refusal(client, twice, twice), InvalidRequestError)
    stream = client.channel.stream_stream("/tandem.inference.v1.InferenceService/Extend")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream(iter([b"\xff\xff\xff"]), timeout=10):
            pass
    assert isinstance(from_rpc_error(caught.value), InvalidRequestError)


async def test_the_serial_engine_keeps_no_sessions(site: Site) -> None:
    async with running_cloud(site, engine={"kind": "serial"}) as cloud, cloud.client() as client:
        opened = opening_to_message(await opening(client))
        assert isinstance(await refusal(client, opened), UnsupportedError)


async def test_draining_ends_idle_streams_at_once(site: Site, model: Path) -> None:
    session = drafting(model)
    async with (
        running_cloud(site) as cloud,
        cloud.client() as client,
        FrameStream(client, await opening(client)) as stream,
    ):
        session.take(await stream.exchange(session.open_frame()))
        async with asyncio.timeout(4):
            draining = asyncio.create_task(cloud.server.drain())
            assert (await stream._call.read()).HasField("draining")
            await draining


async def test_closing_everything_leaves_no_block_in_use(site: Site, model: Path) -> None:
    async with running_cloud(site) as cloud, cloud.client() as client:
        session = drafting(model)
        async with FrameStream(client, await opening(client)) as stream:
            session.take(await stream.exchange(session.open_frame()))
        cloud.server._parts.sessions.close()
        await client.generate(ask(max_output_tokens=2))
        engine: Any = cloud.server._parts.models.get("")
        async with asyncio.timeout(3):
            await asyncio.to_thread(wait_until_free, engine._engine)


def wait_until_free(engine: Any) -> None:
    wait_until(lambda: engine.kv_usage == 0, 3.0)


class Splitting:
    """The device's half of a SPLIT: layers [0, k) of the same model, recomputed whole for simplicity."""

    def __init__(self, model: Path, start: int, codec: Codec) -> None:
        self._module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._start = start
        self._codec = codec
        self.session = SplittingSession(
            prompt_ids(model), max_new_tokens=LENGTH, key=KEY, end_ids=frozenset()
        )

    def frame(self) -> Extend:
        ids = self.session.ids
        with torch.inference_mode():
            output = self._module(torch.tensor([ids]), output_hidden_states=True)
        rows = output.hidden_states[self._start][0, self.session.cloud_len :].numpy()
        return self.session.open_frame(encode(rows, self._codec), len(rows))


async def split_opening(client: Client, start: int, codec: Codec = Codec.FLOAT32) -> Opening:
    opened = await opening(client, f"split-{start}")
    return replace(opened, stage_start=start, codec=codec, prefix_key=b"")


@pytest.mark.parametrize("start", [1, 2, 3])
async def test_a_split_says_what_the_whole_model_says(
    client: Client, model: Path, start: int
) -> None:
    expected = await cloud_text(client, SEEDED)
    device = Splitting(model, start, Codec.FLOAT32)
    async with FrameStream(client, await split_opening(client, start)) as stream:
        while not device.session.is_finished:
            device.session.take(await stream.exchange(device.frame()))
    assert Tokenizer.from_folder(model).decode(device.session.answer) == expected


async def test_splits_and_texts_share_steps_and_little_memory(site: Site, model: Path) -> None:
    engine = {"kv_mib": 1, "max_sequences": 4}
    async with running_cloud(site, engine=engine) as cloud, cloud.client() as client:
        expected = await cloud_text(client, SEEDED)

        async def one(number: int) -> str:
            device = Splitting(model, 1 + number % 3, Codec.FLOAT32)
            opened = replace(await split_opening(client, 1 + number % 3), session=f"s{number}")
            async with FrameStream(client, opened) as stream:
                while not device.session.is_finished:
                    device.session.take(await stream.exchange(device.frame()))
            return Tokenizer.from_folder(model).decode(device.session.answer)

        answers = [one(number) for number in range(6)] + [cloud_text(client, SEEDED)]
        assert set(await asyncio.gather(*answers)) == {expected}


@pytest.mark.parametrize(
    "bad",
    [
        {"activations": b""},
        {"activations": b"\0" * 500},
        {"row_hashes": ()},
        {"row_hashes": (b"short",)},
        {"ids": (1,)},
        {"num_positions": 2},
        {"activations": encode(np.full((1, 32), np.float32(3e7)), Codec.FLOAT32)},
    ],
)
async def test_malformed_rows_are_refused(client: Client, bad: dict[str, Any]) -> None:
    frame = Extend(
        round=1,
        base_len=0,
        prefix_hash=b"",
        activations=encode(np.ones((1, 32), np.float32), Codec.FLOAT32),
        num_positions=1,
        row_hashes=(b"12345678",),
    )
    opened = opening_to_message(await split_opening(client, 2))
    message = frame_to_message(replace(frame, **bad))
    assert isinstance(await refusal(client, opened, message), InvalidRequestError)
