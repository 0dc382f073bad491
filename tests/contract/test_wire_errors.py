"""Every error class, through a real server and back, rich and bare."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import status_pb2

from protos.errors import (
    DETAILS_KEY,
    ERRORS,
    MAX_MESSAGE_CHARACTERS,
    InternalError,
    WireError,
    from_rpc_error,
    from_status,
    to_status,
)


class Refuser(grpc.GenericRpcHandler):
    """Answers every method with one error."""

    def __init__(self) -> None:
        self.error = WireError("")
        self.is_rich = True

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            status = to_status(self.error)
            trailer = ((DETAILS_KEY, status.SerializeToString()),) if self.is_rich else ()
            await context.abort(self.error.code, status.message, trailing_metadata=trailer)
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
async def refuser() -> AsyncIterator[tuple[Refuser, str]]:
    handler = Refuser()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(None)


async def both_clients(target: str) -> list[WireError]:
    """What the asynchronous and the blocking client make of a refusal."""
    async with grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/any/Method")(b"", timeout=10)
    found = [from_rpc_error(caught.value)]

    def call() -> WireError:
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/any/Method")(b"", timeout=10)
        return from_rpc_error(caught.value)

    return [*found, await asyncio.to_thread(call)]


@pytest.mark.parametrize("kind", ERRORS)
async def test_each_class_arrives_as_itself(
    kind: type[WireError], refuser: tuple[Refuser, str]
) -> None:
    handler, target = refuser
    handler.error = kind("do this next", retry_after_s=1.5, quota="tokens_per_minute")
    for error in await both_clients(target):
        assert type(error) is kind
        assert error.message == "do this next"
        assert error.retry_after_s == 1.5
        assert error.quota == "tokens_per_minute"


@pytest.mark.parametrize("kind", ERRORS)
async def test_a_foreign_server_is_understood_by_its_code(
    kind: type[WireError], refuser: tuple[Refuser, str]
) -> None:
    handler, target = refuser
    handler.error, handler.is_rich = kind("text of a foreign server"), False
    for error in await both_clients(target):
        assert error.code is kind.code
        assert "foreign" not in error.message  # it may hold anything


def test_each_status_has_one_base_class() -> None:
    codes = {error.code for error in ERRORS}
    for code in codes - {grpc.StatusCode.OK}:
        status = status_pb2.Status(code=code.value[0], message="m")
        assert from_status(status).code is code


def test_unknown_code_is_an_internal_error() -> None:
    assert isinstance(from_status(status_pb2.Status(code=99, message="m")), InternalError)
    assert isinstance(from_status(status_pb2.Status(code=2, message="m")), InternalError)


def test_details_stay_small() -> None:
    status = to_status(InternalError("x" * 100_000, retry_after_s=1, quota="q"))
    assert len(status.message) == MAX_MESSAGE_CHARACTERS
    assert status.ByteSize() < 4096


def test_reasons_differ() -> None:
    assert len({error.reason for error in ERRORS}) == len(ERRORS)
