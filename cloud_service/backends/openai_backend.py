"""Another engine behind the gRPC API: vLLM, SGLang, llama.cpp, or any server that speaks OpenAI's protocol.

What it can do depends on two things, found out when the service starts:

    the model's tokenizer is configured    prompts go out as token ids, by our own chat template, so that control tokens
                                           in a message are only text; an interrupted answer can go on elsewhere
    the server scores prompts (vLLM)       labels get log-probabilities, and drafts are verified by re-scoring

With neither there is Generate alone, by the server's own template.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Final

from cloud_service.backends.completion_server import CompletionServer, Piece
from cloud_service.backends.rescoring import RescoringRunner
from cloud_service.config import CloudConfig
from cloud_service.engine.text_stream import TextStream
from cloud_service.generation import (
    Completed,
    EndReason,
    GenerationEvent,
    LabelScore,
    Prompt,
    TextDelta,
    Usage,
)
from cloud_service.identity import Identity
from cloud_service.metrics import Metrics
from cloud_service.storage.sessions import Session
from partition.errors import ModelFileError
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard
from partition.extend.verify import VerifyingSession
from partition.text.tokenizer import Tokenizer
from protos.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QuotaExceededError,
    UnavailableError,
    UnsupportedError,
)

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT_TOKENS: Final = 4096
QUEUE_RETRY_S: Final = 1.0


class OpenAIBackend:
    """Turns prompts into calls of one server; see :class:`cloud_service.backends.backend.Backend`."""

    def __init__(
        self,
        *,
        card: ModelCard,
        server: CompletionServer,
        tokenizer: Tokenizer | None,
        can_score: bool,
        max_input_tokens: int,
        max_running: int,
    ) -> None:
        self._card = card
        self._server = server
        self._tokenizer = tokenizer
        self._can_score = can_score
        self._max_input_tokens = min(max_input_tokens, card.context_tokens - 1)
        self._max_running = max_running
        self.num_running = 0

    @property
    def card(self) -> ModelCard:
        """See :class:`Backend`."""
        return self._card

    async def generate(self, prompt: Prompt) -> AsyncGenerator[GenerationEvent, None]:
        """See :class:`Backend`."""
        if self.num_running >= self._max_running:
            raise QuotaExceededError(
                "too many requests wait for the model; try again later",
                retry_after_s=QUEUE_RETRY_S,
                quota="queued_requests",
            )
        self.num_running += 1
        try:
            if prompt.labels:
                yield await self._choose_label(prompt)
                return
            answer = _Answer(self._tokenizer, prompt)
            async with contextlib.aclosing(self._pieces(prompt)) as pieces:
                async for event in answer.events(pieces):
                    yield event
        finally:
            self.num_running -= 1

    def make_session(
        self, identity: Identity, opening: Opening, ids: tuple[int, ...] = ()
    ) -> Session:
        """See :class:`Backend`."""
        if not self._can_score or self._tokenizer is None or opening.is_split:
            raise UnsupportedError("this server keeps no sessions; send the request as text")
        if opening.sampling.temperature:
            raise UnsupportedError(
                "this server verifies greedy drafts only; set temperature 0, or send text"
            )
        side = VerifyingSession(key=opening.prefix_key, end_ids=self._tokenizer.end_ids, ids=ids)
        return Session(
            opening,
            side,
            RescoringRunner(self._server, side),
            card=self._card,
            max_tokens=self._card.context_tokens,
        )

    async def close(self) -> None:
        """See :class:`Backend`."""
        await self._server.close()

    def _pieces(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        timeout_s = _remaining_s(prompt)
        if self._tokenizer is None:
            if prompt.resumed_ids or prompt.resumed_characters:
                raise UnavailableError(
                    "this server cannot go on with another's answer; ask again without the token",
                    retry_after_s=QUEUE_RETRY_S,
                )
            return self._server.answer_messages(
                prompt.messages,
                sampling=prompt.sampling,
                max_tokens=prompt.max_output_tokens,
                stop=prompt.stop,
                timeout_s=timeout_s,
            )
        ids = self._encode(self._tokenizer, prompt)
        room = self._card.context_tokens - len(ids)
        return self._server.answer_ids(
            (*ids, *prompt.resumed_ids),
            sampling=prompt.sampling,
            max_tokens=max(1, min(prompt.max_output_tokens, room) - len(prompt.resumed_ids)),
            stop=prompt.stop,
            timeout_s=timeout_s,
        )

    def _encode(self, tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
        try:
            ids = tokenizer.encode(tokenizer.chat.render(prompt.messages), with_specials=True)
        except ModelFileError as error:
            raise InvalidRequestError(str(error)) from error
        if len(ids) > self._max_input_tokens:
            raise InvalidRequestError(
                f"the input has {len(ids)} tokens and {self._max_input_tokens} are allowed; shorten it"
            )
        return ids

    async def _choose_label(self, prompt: Prompt) -> Completed:
        if self._tokenizer is None or not self._can_score:
            raise UnsupportedError(
                "this server's model gives no log-probabilities of labels; send the request without labels"
            )
        started_s = time.monotonic()
        ids = self._encode(self._tokenizer, prompt)
        labels = [self._tokenizer.encode(label) for label in prompt.labels]
        scores = await self._server.score(
            [(*ids, *label) for label in labels],
            rows=[len(label) for label in labels],
            timeout_s=_remaining_s(prompt),
        )
        found = tuple(
            LabelScore(label=label, log_probability=sum(score.log_probabilities))
            for label, score in zip(prompt.labels, scores, strict=True)
        )
        best = max(found, key=lambda score: score.log_probability)
        usage = Usage(
            input_tokens=len(ids) + sum(map(len, labels)),
            compute_us=round((time.monotonic() - started_s) * 1e6),
        )
        return Completed(reason=EndReason.LABEL, text=best.label, usage=usage, label_scores=found)


class _Answer:
    """One answer while it comes."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: Prompt) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        # Ours too, and not the server's alone: some show the beginning of a stop string, or the whole of it.
        self._stream = TextStream.of_text(prompt.stop)
        self._num_chosen = len(prompt.resumed_ids)
        self._owed = ""
        if tokenizer is not None and prompt.resumed_ids:
            shown = self._stream.feed_text(tokenizer.decode(prompt.resumed_ids))
            self._owed = shown[prompt.resumed_characters :]
        self._last = Piece()
        self._reason: str | None = None

    async def events(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[GenerationEvent]:
        """Turn pieces into events; ends without ``Completed`` when interrupted."""
        started_s = time.monotonic()
        while not self._stream.is_stopped:
            piece = await self._next(pieces)
            if piece is None:
                break
            if piece is _INTERRUPTED:
                if self._tokenizer is None:
                    raise UnavailableError(
                        "this server is shutting down; ask again", retry_after_s=QUEUE_RETRY_S
                    )
                return
            if event := self._take(piece):
                yield event
        if rest := self._owed + self._stream.finish():
            yield TextDelta(text=rest, token_ids=())
        yield self._completed(started_s)

    def _take(self, piece: Piece) -> TextDelta | None:
        if piece.input_tokens:
            self._last = piece
        self._reason = piece.finish_reason or self._reason
        ids = piece.token_ids
        if not ids and piece.text and self._tokenizer is not None:
            # A server that tells no ids: others that decode to the same text, for whoever goes on.
            ids = self._tokenizer.encode(piece.text)
        self._num_chosen += len(ids) or bool(piece.text)
        text, self._owed = self._owed + self._stream.feed_text(piece.text), ""
        return TextDelta(text=text, token_ids=ids) if text or ids else None

    async def _next(self, pieces: AsyncGenerator[Piece, None]) -> Piece | None:
        """Wait for a piece, the end (None), or the interrupt."""
        interrupt = self._prompt.interrupt
        interrupted = asyncio.Event()
        interrupt.subscribe(interrupted.set)
        coming = asyncio.ensure_future(anext(pieces, None))
        waiting = asyncio.ensure_future(interrupted.wait())
        try:
            await asyncio.wait({coming, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else _INTERRUPTED
        finally:
            interrupt.unsubscribe(interrupted.set)
            waiting.cancel()
            if not coming.done():
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await coming

    def _completed(self, started_s: float) -> Completed:
        resumed = len(self._prompt.resumed_ids)
        is_cut = self._reason == "length" and not self._stream.is_stopped
        return Completed(
            reason=EndReason.LENGTH if is_cut else EndReason.STOP,
            text=self._stream.text,
            usage=Usage(
                input_tokens=max(0, self._last.input_tokens - resumed),
                output_tokens=(self._last.output_tokens + resumed) or self._num_chosen,
                cached_tokens=self._last.cached_tokens,
                compute_us=round((time.monotonic() - started_s) * 1e6),
            ),
        )


_INTERRUPTED: Final = Piece(finish_reason="interrupted")


def _remaining_s(prompt: Prompt) -> float:
    remaining_s = prompt.deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise DeadlineExceededError("there was too little time for an answer; allow more")
    return remaining_s


async def make_openai_backend(config: CloudConfig, metrics: Metrics) -> OpenAIBackend:
    """Reach the configured server and find out what it can do.

    Raises:
        ModelLoadError: It cannot be reached, or serves another model.
        PartitionError: The tokenizer's files are missing or damaged.
    """
    chosen = config.openai
    tokenizer = None
    if chosen.tokenizer is not None:
        tokenizer = await asyncio.to_thread(Tokenizer.open, chosen.tokenizer)
    server = CompletionServer(chosen)
    try:
        served = await server.find_model()
        can_score = tokenizer is not None and await server.can_score()
    except BaseException:
        await server.close()
        raise
    fingerprint = hashlib.sha256(f"openai\0{served.name}\0{chosen.revision}".encode())
    card = ModelCard(
        name=config.openai.public_name or served.name,
        fingerprint=fingerprint.hexdigest(),
        tokenizer_sha256="" if tokenizer is None else tokenizer.sha256,
        chat_template_sha256="" if tokenizer is None else tokenizer.chat.sha256,
        vocabulary_size=0 if tokenizer is None else tokenizer.vocab_size,
        num_layers=1,  # one piece: no part of it runs elsewhere
        hidden_size=0,
        context_tokens=chosen.context_tokens or served.context_tokens or DEFAULT_CONTEXT_TOKENS,
    )
    backend = OpenAIBackend(
        card=card,
        server=server,
        tokenizer=tokenizer,
        can_score=can_score,
        max_input_tokens=config.limits.max_input_tokens,
        max_running=config.limits.max_queued_requests,
    )
    metrics.queue_depth.set_function(lambda: backend.num_running)
    logger.info(
        "model server model=%s ids=%s scores=%s", card.name, tokenizer is not None, can_score
    )
    return backend
