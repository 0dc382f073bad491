"""The RPCs: wire messages in and out, everything else is done by the parts they are given."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc
import sqlalchemy as sa

from cloud_service.backends.backend import Backend, ModelSlot
from cloud_service.config import CloudConfig
from cloud_service.generation import Completed, EndReason, Interrupt, Prompt, TextDelta
from cloud_service.identity import Identity
from cloud_service.metrics import Metrics
from cloud_service.rpc.answer_account import AnswerAccount
from cloud_service.rpc.calls import current_call
from cloud_service.rpc.extend_stream import answer_stream
from cloud_service.rpc.feedback import store_outcomes
from cloud_service.rpc.request_checks import (
    check_outcomes,
    check_probe,
    check_task,
    checked_labels,
    checked_messages,
    checked_output_tokens,
    checked_request_id,
    checked_sampling,
    checked_stop,
    payload_sha256,
)
from cloud_service.rpc.resume_token import ResumePoint, open_resume_token, seal_resume_token
from cloud_service.storage.dedupe import Attempt, Dedupe, RequestKey, Stored
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.saved_sessions import SavedSessions
from cloud_service.storage.sessions import SessionTable
from cloud_service.storage.state_store import StateStore
from cloud_service.tenancy.tenants import Tenants
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard, card_to_message
from protos.errors import InProgressError
from protos.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.metadata import QUEUED

Context = grpc.aio.ServicerContext[Any, Any]

LARGE_BYTES: Final = 64 * 1024  # requests beyond are checked and hashed off the event loop
_CODECS: Final = (
    inference_pb2.ACTIVATION_CODEC_FLOAT32,
    inference_pb2.ACTIVATION_CODEC_FLOAT16,
    inference_pb2.ACTIVATION_CODEC_INT8_BLOCK,
    inference_pb2.ACTIVATION_CODEC_INT4_BLOCK,
)
_REASONS: Final = {
    EndReason.STOP: inference_pb2.FINISH_REASON_STOP,
    EndReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    EndReason.LABEL: inference_pb2.FINISH_REASON_LABEL,
}


@dataclass(frozen=True, kw_only=True)
class ServiceParts:
    """What the servicers share."""

    config: CloudConfig
    models: ModelSlot
    store: StateStore
    envelope: Envelope
    dedupe: Dedupe
    tenants: Tenants
    metrics: Metrics
    sessions: SessionTable
    saved_sessions: SavedSessions
    attempts: set[Attempt] = field(default_factory=set)  # whose leases are renewed
    interrupt: Interrupt = field(default_factory=Interrupt)  # answers are to be handed over
    draining: Interrupt = field(default_factory=Interrupt)  # streams of frames are to end


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generate, Extend, GetModel and Probe."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Answer one request; the stored answer again when it was answered before."""
        parts, call = self._parts, current_call()
        call.request_id = checked_request_id(request)
        backend = parts.models.get(request.model)
        prompt, digest = await self._read(request)
        key = RequestKey(
            identity=call.identity,
            request_id=call.request_id,
            method="Generate",
            payload_sha256=digest,
        )
        ttl_s = self._ttl_s(context)
        attempt = await self._begin(key, parts.config.state.lease_s, ttl_s)
        started = inference_pb2.Started(
            model=backend.card.name, fingerprint=backend.card.fingerprint
        )
        if isinstance(attempt, Stored):
            parts.metrics.dedupe_hits.inc()
            started.replayed = True
            started.server_us = call.elapsed_us
            yield inference_pb2.GenerateResponse(started=started)
            yield inference_pb2.GenerateResponse.FromString(attempt.response)
            return
        is_stored = False
        try:
            started.server_us = call.elapsed_us
            yield inference_pb2.GenerateResponse(started=started)
            if request.resume_token:
                prompt = await self._resume(prompt, request.resume_token, digest)
            async with contextlib.aclosing(self._answer(backend, prompt, digest)) as answer:
                async for response, is_last in answer:
                    if is_last:
                        await self._complete(attempt, response, ttl_s)
                        is_stored = True
                    yield response
        finally:
            parts.attempts.discard(attempt)
            if not is_stored:
                await parts.store.run(lambda connection: parts.dedupe.abandon(connection, attempt))

    async def Extend(
        self, request_iterator: AsyncIterator[inference_pb2.ExtendRequest], context: Context
    ) -> AsyncIterator[inference_pb2.ExtendResponse]:
        """Answer the frames of one session."""
        parts = self._parts
        replies = answer_stream(
            request_iterator,
            backend=parts.models.get(""),
            sessions=parts.sessions,
            draining=parts.draining,
            load_ids=self._load_ids,
        )
        async with contextlib.aclosing(replies):
            async for reply in replies:
                yield reply

    async def GetModel(
        self, request: inference_pb2.GetModelRequest, context: Context
    ) -> inference_pb2.GetModelResponse:
        """Say which model answers here."""
        return _described(self._parts.models.get(request.model).card)

    async def Probe(
        self, request: inference_pb2.ProbeRequest, context: Context
    ) -> inference_pb2.ProbeResponse:
        """Give as many bytes back as are asked for."""
        check_probe(request)
        # Random, so that no compression on the way makes a link look faster than it is.
        padding = os.urandom(request.reply_bytes)
        return inference_pb2.ProbeResponse(padding=padding, server_us=current_call().elapsed_us)

    async def _load_ids(self, identity: Identity, opening: Opening) -> tuple[int, ...]:
        parts = self._parts
        return await parts.store.run(
            lambda connection: parts.saved_sessions.load(
                connection, identity, opening, now=time.time()
            )
        )

    async def _read(self, request: inference_pb2.GenerateRequest) -> tuple[Prompt, bytes]:
        call, parts = current_call(), self._parts
        identity, deadline_s = call.identity, call.deadline_s

        def read() -> tuple[Prompt, bytes]:
            limits = parts.config.limits
            check_task(request.task, required=False)
            prompt = Prompt(
                identity=identity,
                messages=checked_messages(request, limits),
                sampling=checked_sampling(request.sampling),
                max_output_tokens=checked_output_tokens(request, limits),
                stop=checked_stop(request, limits),
                labels=checked_labels(request, limits),
                deadline_s=deadline_s,
                interrupt=parts.interrupt,
            )
            return prompt, payload_sha256(request, "request_id", "resume_token")

        if request.ByteSize() > LARGE_BYTES:
            return await asyncio.to_thread(read)
        return read()

    def _ttl_s(self, context: Context) -> float:
        """How long the answer is remembered: a request from an outbox may come again when the device is back, in weeks."""
        state = self._parts.config.state
        queued = (QUEUED, "1") in tuple(context.invocation_metadata() or ())
        return state.outbox_ttl_s if queued else state.interactive_ttl_s

    async def _begin(self, key: RequestKey, lease_s: float, ttl_s: float) -> Attempt | Stored:
        parts = self._parts

        def begin(connection: sa.Connection) -> Attempt | Stored:
            return parts.dedupe.begin(
                connection, key, now=time.time(), lease_s=lease_s, ttl_s=ttl_s
            )

        return await parts.store.run(begin)

    async def _resume(self, prompt: Prompt, token: str, digest: bytes) -> Prompt:
        parts, identity = self._parts, prompt.identity
        point = await parts.store.run(
            lambda connection: open_resume_token(
                connection, parts.envelope, identity, token, digest
            )
        )
        return replace(prompt, resumed_ids=point.token_ids, resumed_characters=point.num_characters)

    async def _answer(
        self, backend: Backend, prompt: Prompt, digest: bytes
    ) -> AsyncGenerator[tuple[inference_pb2.GenerateResponse, bool], None]:
        """Yield responses, and whether each is the last of a whole answer."""
        chosen, num_characters = list(prompt.resumed_ids), prompt.resumed_characters
        account = AnswerAccount(current_call(), self._parts.metrics, self._parts.config.prices)
        async with contextlib.aclosing(backend.generate(prompt)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    account.came(len(event.token_ids) or bool(event.text))
                    chosen += event.token_ids
                    num_characters += len(event.text)
                    delta = inference_pb2.Delta(text=event.text, num_tokens=len(event.token_ids))
                    if event.text:
                        yield inference_pb2.GenerateResponse(delta=delta), False
                else:
                    yield _finished(event, account.finish(event.usage)), True
                    return
        point = ResumePoint(
            payload_sha256=digest, num_characters=num_characters, token_ids=tuple(chosen)
        )
        parts = self._parts
        token = await parts.store.run(
            lambda connection: seal_resume_token(connection, parts.envelope, prompt.identity, point)
        )
        draining = inference_pb2.Draining(resume_token=token)
        yield inference_pb2.GenerateResponse(draining=draining), False

    async def _complete(
        self, attempt: Attempt, response: inference_pb2.GenerateResponse, ttl_s: float
    ) -> None:
        parts, content = self._parts, response.SerializeToString()
        expires = time.time() + ttl_s
        cost = response.finished.usage.cost_micro_usd

        def complete(connection: sa.Connection) -> bool:
            is_ours = parts.dedupe.complete(connection, attempt, content, expires=expires)
            if is_ours:
                parts.tenants.bill(connection, attempt.key.identity.tenant, cost)
            return is_ours

        is_ours = await parts.store.run(complete)
        if not is_ours:
            raise InProgressError(
                "another call took this request over; ask again", retry_after_s=1.0
            )


def _finished(completed: Completed, cost_micro_usd: int) -> inference_pb2.GenerateResponse:
    usage = completed.usage
    return inference_pb2.GenerateResponse(
        finished=inference_pb2.Finished(
            reason=_REASONS[completed.reason],
            text=completed.text,
            usage=inference_pb2.Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cached_tokens,
                compute_us=usage.compute_us,
                queue_us=usage.queue_us,
                cost_micro_usd=cost_micro_usd,
            ),
            label_scores=[
                inference_pb2.LabelScore(label=score.label, log_probability=score.log_probability)
                for score in completed.label_scores
            ],
        )
    )


@functools.lru_cache(maxsize=1)  # there is one model, and many that ask
def _described(card: ModelCard) -> inference_pb2.GetModelResponse:
    return card_to_message(card, _CODECS)


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Outcomes from devices."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts

    async def Report(
        self, request: feedback_pb2.ReportRequest, context: Context
    ) -> feedback_pb2.ReportResponse:
        """Store the outcomes, once."""
        parts, call = self._parts, current_call()
        call.request_id = checked_request_id(request)
        check_outcomes(request, parts.config.limits)
        key = RequestKey(
            identity=call.identity,
            request_id=call.request_id,
            method="Report",
            payload_sha256=payload_sha256(request, "request_id"),
        )
        content = await parts.store.run(lambda connection: self._store(connection, key, request))
        return feedback_pb2.ReportResponse.FromString(content)

    def _store(
        self,
        connection: sa.Connection,
        key: RequestKey,
        request: feedback_pb2.ReportRequest,
    ) -> bytes:
        parts, now = self._parts, time.time()
        ttl_s = parts.config.state.outbox_ttl_s
        begun = parts.dedupe.begin(connection, key, now=now, lease_s=0.0, ttl_s=ttl_s)
        if isinstance(begun, Stored):
            parts.metrics.dedupe_hits.inc()
            return begun.response
        outcomes = [(outcome.task, outcome.SerializeToString()) for outcome in request.outcomes]
        store_outcomes(connection, parts.envelope, key.identity, key.request_id, outcomes, now=now)
        response = feedback_pb2.ReportResponse(num_stored=len(outcomes)).SerializeToString()
        parts.dedupe.complete(connection, begun, response, expires=now + ttl_s)
        return response
