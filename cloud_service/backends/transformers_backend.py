"""Our own engine behind the gRPC API: a transformers decoder on this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from cloud_service.config import CloudConfig
from cloud_service.engine.job import Engine, Job, JobEnd, JobOutcome
from cloud_service.engine.mailbox import Mailbox
from cloud_service.engine.text_stream import TextStream
from cloud_service.errors import ModelLoadError
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
from cloud_service.storage.sessions import CloudSide, FrameRunner, Session
from partition.errors import ModelFileError
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard
from partition.extend.split import TailSession
from partition.extend.verify import VerifyingSession
from partition.text.tokenizer import Tokenizer
from protos.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    RequestCancelledError,
    UnavailableError,
    UnsupportedError,
)
from protos.tracing import past_span

logger = logging.getLogger(__name__)

TOKENIZER_THREADS: Final = 2

MakeRunner = Callable[[CloudSide, Identity, Opening], FrameRunner]


class TransformersBackend:
    """Turns prompts into jobs of an engine and their tokens into text; see :class:`Backend`."""

    def __init__(
        self,
        *,
        card: ModelCard,
        tokenizer: Tokenizer,
        engine: Engine,
        make_runner: MakeRunner | None,
        max_input_tokens: int,
    ) -> None:
        self._card = card
        self._tokenizer = tokenizer
        self._engine = engine
        self._make_runner = make_runner
        self._context_tokens = min(card.context_tokens, engine.capacity_tokens)
        self._max_input_tokens = min(max_input_tokens, self._context_tokens)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tandem-tokenize")

    @property
    def card(self) -> ModelCard:
        """See :class:`Backend`."""
        return self._card

    async def generate(self, prompt: Prompt) -> AsyncGenerator[GenerationEvent, None]:
        """See :class:`Backend`."""
        loop = asyncio.get_running_loop()
        prompt_ids, labels = await loop.run_in_executor(self._threads, self._encode, prompt)
        mailbox = Mailbox()
        listener = _Listener(self._tokenizer, prompt, mailbox)
        job = Job(
            tenant=prompt.identity.tenant,
            prompt_ids=prompt_ids,
            answer_ids=prompt.resumed_ids,
            max_output_tokens=self._output_room(prompt, len(prompt_ids)),
            sampling=prompt.sampling,
            end_ids=self._tokenizer.end_ids,
            labels=labels,
            deadline_s=prompt.deadline_s,
            listener=listener,
        )
        prompt.interrupt.subscribe(mailbox.interrupt)
        try:
            if listener.is_complete:  # the other server got as far as a stop string
                yield Completed(
                    reason=EndReason.STOP,
                    text=listener.stream.text,
                    usage=Usage(
                        input_tokens=len(prompt_ids), output_tokens=len(prompt.resumed_ids)
                    ),
                )
                return
            self._engine.submit(job)
            while True:
                letter = await mailbox.take()
                if letter.text or letter.token_ids:
                    yield TextDelta(text=letter.text, token_ids=tuple(letter.token_ids))
                if letter.outcome is not None:
                    _trace(letter.outcome)
                    yield _completed(job, letter.outcome, listener, prompt)
                    return
                if letter.is_interrupted:
                    return
        finally:
            job.cancel()
            prompt.interrupt.unsubscribe(mailbox.interrupt)

    def make_session(
        self, identity: Identity, opening: Opening, ids: tuple[int, ...] = ()
    ) -> Session:
        """See :class:`Backend`."""
        if self._make_runner is None:
            raise UnsupportedError("this server keeps no sessions; send the request as text")
        end_ids = self._tokenizer.end_ids
        side: CloudSide = (
            TailSession(end_ids=end_ids)
            if opening.is_split
            else VerifyingSession(key=opening.prefix_key, end_ids=end_ids, ids=ids)
        )
        return Session(
            opening,
            side,
            self._make_runner(side, identity, opening),
            card=self._card,
            max_tokens=self._context_tokens,
        )

    async def close(self) -> None:
        """See :class:`Backend`."""
        await asyncio.to_thread(self._engine.close)
        self._threads.shutdown()

    def _encode(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        try:
            text = self._tokenizer.chat.render(prompt.messages)
        except ModelFileError as error:
            raise InvalidRequestError(str(error)) from error
        ids = self._tokenizer.encode(text, with_specials=True)
        if len(ids) > self._max_input_tokens:
            raise InvalidRequestError(
                f"the input has {len(ids)} tokens and {self._max_input_tokens} are allowed; shorten it"
            )
        labels = tuple(self._tokenizer.encode(label) for label in prompt.labels)
        return ids, labels

    def _output_room(self, prompt: Prompt, num_input: int) -> int:
        room = self._context_tokens - num_input
        if room < 1:
            raise InvalidRequestError("the input fills the model's context; shorten it")
        return min(prompt.max_output_tokens, room)


class _Listener:
    """Makes text of tokens on the engine's thread."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, mailbox: Mailbox) -> None:
        self.stream = TextStream(tokenizer.stream(), prompt.stop)
        self.num_tokens = len(prompt.resumed_ids)
        self._mailbox = mailbox
        shown = "".join(self.stream.feed(token) for token in prompt.resumed_ids)
        # What the other server held back, it did not send; all it sent, this one would have shown too.
        self._owed = shown[prompt.resumed_characters :]

    @property
    def is_complete(self) -> bool:
        """Whether the answer ended at a stop string."""
        return self.stream.is_stopped

    def on_token(self, token_id: int) -> bool:
        """See :class:`JobListener`."""
        self.num_tokens += 1
        text = self._owed + self.stream.feed(token_id)
        self._owed = ""
        self._mailbox.add_tokens(text, [token_id])
        return self.stream.is_stopped

    def on_end(self, outcome: JobOutcome) -> None:
        """See :class:`JobListener`."""
        if outcome.end in (JobEnd.END_OF_SEQUENCE, JobEnd.LENGTH) and (
            rest := self._owed + self.stream.finish()
        ):
            self._mailbox.add_tokens(rest, [])
        self._mailbox.add_outcome(outcome)


def _trace(outcome: JobOutcome) -> None:
    """Tell the call's trace when the engine worked on it."""
    if outcome.started_s is not None:
        past_span(
            "engine",
            started_s=outcome.started_s,
            ended_s=outcome.ended_s,
            tandem__steps=outcome.num_steps,
            tandem__queue_us=outcome.queue_us,
            tandem__compute_us=outcome.compute_us,
            tandem__cached_tokens=outcome.cached_tokens,
        )


def _completed(job: Job, outcome: JobOutcome, listener: _Listener, prompt: Prompt) -> Completed:
    """Make the last event of a job that ended well.

    Raises:
        WireError: It did not.
    """
    if outcome.end is JobEnd.CANCELLED:
        raise RequestCancelledError("the call was cancelled")
    if outcome.end is JobEnd.DEADLINE:
        raise DeadlineExceededError("there was too little time for an answer; allow more")
    if outcome.end is JobEnd.CLOSED:
        raise UnavailableError("this server is shutting down; call again", retry_after_s=1.0)
    if outcome.end is JobEnd.FAILED:
        raise InternalError("the model failed on this request; report its id")
    usage = Usage(
        input_tokens=len(job.prompt_ids),
        output_tokens=listener.num_tokens,
        cached_tokens=outcome.cached_tokens,
        compute_us=outcome.compute_us,
        queue_us=outcome.queue_us,
    )
    if outcome.end is JobEnd.SCORED:
        scores = tuple(
            LabelScore(label=label, log_probability=score)
            for label, score in zip(prompt.labels, outcome.label_log_probabilities, strict=True)
        )
        best = max(scores, key=lambda score: score.log_probability)
        return Completed(reason=EndReason.LABEL, text=best.label, usage=usage, label_scores=scores)
    reason = EndReason.LENGTH if outcome.end is JobEnd.LENGTH else EndReason.STOP
    return Completed(reason=reason, text=listener.stream.text, usage=usage)


async def make_transformers_backend(config: CloudConfig, metrics: Metrics) -> TransformersBackend:
    """Fetch and load the configured model, off the event loop.

    Raises:
        ModelLoadError: It cannot be served.
        PartitionError: It cannot be had, or its files are damaged.
    """

    def make() -> TransformersBackend:
        # torch and transformers take seconds to import; the ports are open by then.
        from cloud_service.engine.model import load_model

        model = load_model(config.model)
        engine, make_runner = _make_engine(model.module, config, metrics)
        metrics.queue_depth.set_function(lambda: engine.num_waiting)
        return TransformersBackend(
            card=model.card,
            tokenizer=model.tokenizer,
            engine=engine,
            make_runner=make_runner,
            max_input_tokens=config.limits.max_input_tokens,
        )

    return await asyncio.to_thread(make)


def _make_engine(
    module: Any, config: CloudConfig, metrics: Metrics
) -> tuple[Engine, MakeRunner | None]:
    from cloud_service.engine.batching import BatchingEngine, EngineLimits, StepReport
    from cloud_service.engine.frames import EngineSession
    from cloud_service.engine.serial import SerialEngine

    max_waiting, threads = config.limits.max_queued_requests, config.model.threads
    if config.engine.kind == "serial":
        return SerialEngine(module, max_waiting=max_waiting, threads=threads), None

    def on_step(report: StepReport) -> None:
        metrics.batch_tokens.observe(report.num_tokens)
        metrics.batch_sequences.observe(report.num_sequences)
        if report.num_preemptions:
            metrics.preemptions.inc(report.num_preemptions)

    limits = EngineLimits(
        max_waiting=max_waiting,
        max_sequences=config.engine.max_sequences,
        step_tokens=config.engine.step_tokens,
        step_s=config.engine.step_ms / 1000,
        kv_bytes=config.engine.kv_mib << 20,
        threads=threads,
    )
    try:
        engine = BatchingEngine(
            module, limits, weights=config.engine.tenant_weights, on_step=on_step
        )
    except MemoryError as error:
        raise ModelLoadError(str(error)) from error
    metrics.kv_usage.set_function(lambda: engine.kv_usage)

    def make_runner(side: CloudSide, identity: Identity, opening: Opening) -> FrameRunner:
        return EngineSession(engine, side, tenant=identity.tenant, opening=opening)

    return engine, make_runner
