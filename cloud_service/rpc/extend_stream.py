"""One Extend stream: the first frame opens a session, every further one is answered in its order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from cloud_service.backends.backend import Backend
from cloud_service.generation import Interrupt
from cloud_service.identity import Identity
from cloud_service.rpc.calls import current_call
from cloud_service.storage.sessions import DEFAULT_FRAME_S, SessionTable
from partition.errors import FrameError
from partition.extend.frame_messages import (
    Opening,
    frame_from_message,
    opening_from_message,
    reply_to_message,
)
from partition.extend.frames import Mismatch
from protos.errors import InvalidRequestError
from protos.inference.v1 import inference_pb2
from protos.tracing import span


async def answer_stream(
    requests: AsyncIterator[inference_pb2.ExtendRequest],
    *,
    backend: Backend,
    sessions: SessionTable,
    draining: Interrupt,
    load_ids: Callable[[Identity, Opening], Awaitable[tuple[int, ...]]],
) -> AsyncGenerator[inference_pb2.ExtendResponse, None]:
    """Answer frames until the caller ends the stream, or this server goes away.

    Args:
        requests: The opening, then frames.
        backend: Computes.
        sessions: Those that are known here.
        draining: Set when this server goes away.
        load_ids: Finds what was saved of a session that is not known here.

    Raises:
        WireError: A frame is refused.
    """
    call = current_call()
    messages = _until(requests, draining)
    first = await anext(messages, None)
    if first is None:
        return
    try:
        opening = opening_from_message(first)
    except FrameError as error:
        raise InvalidRequestError(str(error)) from error
    card = backend.card
    different = opening.agreement.first_difference(card.agreement)
    if different is None and opening.stage_end != card.num_layers:
        different = "stage_end"  # the cloud has the head
    if different is not None:
        yield reply_to_message(Mismatch(field=different))
        return
    identity = call.identity
    is_known = opening.is_split or sessions.holds(identity, opening)
    ids = () if is_known else await load_ids(identity, opening)
    session = sessions.open(identity, opening, lambda: backend.make_session(identity, opening, ids))
    opened = inference_pb2.ExtendOpened(session=opening.session, known_len=session.known_len)
    yield inference_pb2.ExtendResponse(opened=opened)
    async for message in messages:
        try:
            frame = frame_from_message(message)
        except FrameError as error:
            raise InvalidRequestError(str(error)) from error
        deadline_s = min(call.deadline_s, time.monotonic() + DEFAULT_FRAME_S)
        with span("frame") as told:
            told.set(tandem__positions=frame.num_positions)
            reply = await session.answer(frame, deadline_s=deadline_s)
        sessions.changed(identity, session)
        yield reply_to_message(reply)
    if draining.is_set:
        yield inference_pb2.ExtendResponse(draining=inference_pb2.Draining())


async def _until(
    requests: AsyncIterator[inference_pb2.ExtendRequest], interrupt: Interrupt
) -> AsyncGenerator[inference_pb2.ExtendRequest, None]:
    """Yield requests until the interrupt is set, also while waiting for one."""
    stop = asyncio.Event()
    interrupt.subscribe(stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            coming = asyncio.ensure_future(anext(requests))
            try:
                await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    return
                try:
                    message = coming.result()
                except StopAsyncIteration:
                    return
            finally:
                coming.cancel()
            yield message
    finally:
        stopped.cancel()
        interrupt.unsubscribe(stop.set)
