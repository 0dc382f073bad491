"""The cloud service going away, in good order and in bad: no token lost or said twice, no answer made twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_service.cli import main
from protos.errors import DrainingError, InProgressError, InvalidRequestError, from_rpc_error
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.cloud_harness import (
    OTHER,
    CloudProcess,
    RunningCloud,
    Site,
    ask,
    cloud_process,
    running_cloud,
)
from tests.tiny_models import make_folder

LONG = 800  # tokens; the tiny model takes seconds for them


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model") / "tiny-qwen", architecture="qwen2")


def long_request(**fields: Any) -> inference_pb2.GenerateRequest:
    sampling = inference_pb2.Sampling(temperature=1.0, top_k=50, seed=7)
    return ask(max_output_tokens=LONG, sampling=sampling, **fields)


async def uninterrupted(site: Site, request: inference_pb2.GenerateRequest) -> str:
    same = inference_pb2.GenerateRequest()
    same.CopyFrom(request)
    same.request_id = ask().request_id
    async with running_cloud(site) as cloud, cloud.client() as client:
        return (await client.generate(same))[-1].finished.text


async def read_until(call: Any, num_deltas: int) -> tuple[list[str], Any]:
    """Read so many pieces of text; returns them and the iterator."""
    pieces: list[str] = []
    events = aiter(call)
    while len(pieces) < num_deltas:
        event = await anext(events)
        if event.HasField("delta"):
            pieces.append(event.delta.text)
    return pieces, events


async def test_a_drained_answer_goes_on_elsewhere_at_the_very_token(site: Site) -> None:
    request = long_request()
    expected = await uninterrupted(site, request)
    impatient = {"drain": {"balancer_s": 0.0, "finish_s": 0.05}}
    async with running_cloud(site, **impatient) as cloud, cloud.client() as client:
        pieces, events = await read_until(client.inference.Generate(request, timeout=60), 20)
        draining = asyncio.create_task(cloud.server.drain())
        async for event in events:
            pieces.append(event.delta.text)
            if event.HasField("draining"):
                request.resume_token = event.draining.resume_token
        await draining
    assert request.resume_token
    sent = "".join(pieces)
    assert expected.startswith(sent)
    assert len(sent) < len(expected)
    async with running_cloud(site) as cloud, cloud.client() as client:
        rest = await client.generate(request)
    assert sent + "".join(event.delta.text for event in rest) == expected
    assert rest[-1].finished.text == expected
    assert rest[-1].finished.usage.output_tokens == LONG


async def test_a_resume_token_is_bound_to_tenant_and_request(site: Site) -> None:
    request = long_request()
    impatient = {"drain": {"balancer_s": 0.0, "finish_s": 0.0}}
    async with running_cloud(site, **impatient) as cloud, cloud.client() as client:
        _, events = await read_until(client.inference.Generate(request, timeout=60), 3)
        draining = asyncio.create_task(cloud.server.drain())
        token = [event async for event in events][-1].draining.resume_token
        await draining
    async with running_cloud(site) as cloud, cloud.client() as client, cloud.client(OTHER) as other:
        request.resume_token = token
        for someone, asked in ((other, request), (client, ask("else", resume_token=token))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await someone.generate(asked)
            assert isinstance(from_rpc_error(caught.value), InvalidRequestError)


async def test_short_answers_finish_while_draining_and_new_ones_are_refused(site: Site) -> None:
    async def drained(cloud: RunningCloud) -> None:
        await cloud.server.drain()

    async with running_cloud(site) as cloud, cloud.client() as client:
        request = ask(max_output_tokens=300)
        pieces, events = await read_until(client.inference.Generate(request, timeout=60), 2)
        draining = asyncio.create_task(drained(cloud))
        await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.generate(ask())
        error = from_rpc_error(caught.value)
        assert isinstance(error, DrainingError)
        assert error.retry_after_s is not None
        last = [event async for event in events][-1]
        assert last.finished.usage.output_tokens == 300
        assert last.finished.text.startswith("".join(pieces))
        await draining


def generate(channel: grpc.Channel, request: inference_pb2.GenerateRequest) -> list[Any]:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return list(stub.Generate(request, timeout=60))


def test_kill_in_the_middle_and_after_an_answer(site: Site) -> None:
    done, cut = ask(max_output_tokens=5), long_request()
    with cloud_process(site) as cloud, cloud.channel() as channel:
        answered = generate(channel, done)
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(cut, timeout=60)
        while not next(call).HasField("delta"):
            pass
        cloud.stop(signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            list(call)
    assert sqlite3.connect(site.root / "state/state.sqlite3").execute(
        "PRAGMA integrity_check"
    ).fetchone() == ("ok",)
    cut.max_output_tokens = LONG
    with cloud_process(site) as cloud, cloud.channel() as channel:
        again = generate(channel, done)
        assert again[0].started.replayed
        assert again[-1] == answered[-1]
        events = generate(channel, cut)  # the lease of the dead process does not stand in the way
        assert not events[0].started.replayed
        assert events[-1].finished.usage.output_tokens == LONG
        assert cloud.stop()[0] == 0


def test_a_process_from_ready_line_to_sigterm(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_file = tmp_path / "ready.json"
    with cloud_process(site, "--ready-file", str(ready_file)) as cloud, cloud.channel() as channel:
        assert json.loads(ready_file.read_text()) == cloud.ready
        assert cloud.ready["tls"] is True
        assert cloud.ready["model"] == "tiny-qwen"
        _a_second_service_on_one_state_folder_is_refused(site, capsys)
        _a_locked_database_is_said_and_nothing_is_lost(site, channel)
        code, log = _sigterm_in_the_middle_of_an_answer(cloud, channel)
    assert code == 0
    assert "Traceback" not in log


def _a_second_service_on_one_state_folder_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(site.root / "cloud.toml")
    arguments = ["serve", "--config", config, "--listen", "127.0.0.1:0"]
    assert main([*arguments, "--model", str(site.model)]) == 1
    assert "another cloud service uses this state" in capsys.readouterr().err


def _a_locked_database_is_said_and_nothing_is_lost(site: Site, channel: grpc.Channel) -> None:
    request = ask(max_output_tokens=3)
    database = sqlite3.connect(site.root / "state/state.sqlite3", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    with pytest.raises(grpc.RpcError) as caught:
        generate(channel, request)
    assert from_rpc_error(caught.value).is_transient
    assert not isinstance(from_rpc_error(caught.value), InProgressError)
    database.execute("ROLLBACK")
    database.close()
    assert generate(channel, request)[-1].HasField("finished")


def _sigterm_in_the_middle_of_an_answer(
    cloud: CloudProcess, channel: grpc.Channel
) -> tuple[int, str]:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    call = stub.Generate(long_request(), timeout=60)
    while not next(call).HasField("delta"):
        pass
    started_s = time.monotonic()
    result: list[tuple[int, str]] = []
    stopping = threading.Thread(target=lambda: result.append(cloud.stop()))
    stopping.start()
    last = list(call)[-1]
    stopping.join()
    assert last.HasField("draining") or last.HasField("finished")
    assert time.monotonic() - started_s < 25
    return result[0]
