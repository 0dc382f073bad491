"""One request to the large model over all its attempts: what has come, what may still be tried, and how long to wait.

No network here: :mod:`edge_agent.cloud.client` makes the calls and hands every event over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from edge_agent.answer_text import AnswerText, DivergedError
from edge_agent.cloud.cloud import CloudAnswer, FinishReason
from edge_agent.flow import LabelScore, Usage
from partition.task import Task
from protos.errors import (
    DeadlineExceededError,
    DrainingError,
    InProgressError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    RequestCancelledError,
    UnavailableError,
    WireError,
)
from protos.inference.v1 import inference_pb2

MAX_ANSWER_CHARACTERS = 1_000_000  # far beyond every task's limit; a cloud that says more is broken
_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    inference_pb2.FINISH_REASON_LABEL: FinishReason.LABEL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How often and after which pause one request is tried again, within its deadline."""

    num_attempts: int = 4  # waiting for an answer in progress does not count
    first_pause_s: float = 0.1
    max_pause_s: float = 2.0
    in_progress_pause_s: float = 1.0


class Generation:
    """One request over all its attempts. Belongs to one thread."""

    def __init__(
        self,
        *,
        request: inference_pb2.GenerateRequest,
        task: Task,
        on_text: Callable[[str], None] | None,
        on_sent: Callable[[int], None] | None,
        queued: bool,
        cancel: threading.Event,
        ends_at: float,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.queued = queued
        self.cancel = cancel
        self._sent_bytes = 0
        self.num_attempts = 0
        self.answer: inference_pb2.Finished | None = None
        self._task = task
        self._on_text = on_text
        self._on_sent = on_sent
        self._ends_at = ends_at
        self._clock = clock
        self._began_at = clock()
        self._first_text_at: float | None = None
        self._text = AnswerText()
        self._num_characters = 0  # of this attempt
        self._started: inference_pb2.Started | None = None
        self._is_draining = False

    @property
    def left_s(self) -> float:
        """Time until the deadline, seconds."""
        return self._ends_at - self._clock()

    def pause(self, seconds: float) -> None:
        """Sleep, unless cancelled."""
        self.cancel.wait(seconds)

    def begin_attempt(self) -> float:
        """Get ready for a new stream; return the time it may take, seconds."""
        if self.cancel.is_set():
            raise RequestCancelledError("the request was cancelled")
        left_s = self.left_s
        if left_s <= 0:
            raise DeadlineExceededError(
                "the cloud did not answer in time; try again, or raise the task's deadline_s"
            )
        self.num_attempts += 1
        self._started = None
        self._is_draining = False
        self._num_characters = 0
        if self.request.resume_token:
            self._text.go_on()
        else:
            self._text.begin_anew()
        return left_s

    def sent(self, num_bytes: int) -> None:
        """Count what an attempt sends."""
        self._sent_bytes += num_bytes
        if self._on_sent is not None:
            self._on_sent(num_bytes)

    def take(self, event: inference_pb2.GenerateResponse) -> None:
        """Take one event of the stream."""
        if self.cancel.is_set():
            raise RequestCancelledError("the request was cancelled")
        kind = event.WhichOneof("event")
        if self.answer is not None:
            raise InternalError("the cloud went on after the end of its answer; report it")
        if kind == "started":
            self._started = event.started
        elif self._started is None:
            raise InternalError("the cloud's answer has no beginning; report it")
        elif kind == "delta":
            self._num_characters += len(event.delta.text)
            if self._num_characters > MAX_ANSWER_CHARACTERS:
                raise InternalError("the cloud's answer does not end; report it")
            self._show(lambda: self._text.add(event.delta.text))
        elif kind == "draining":
            self.request.resume_token = event.draining.resume_token
            self._is_draining = True
        elif kind == "finished":
            self._check(event.finished)
            self._show(lambda: self._text.finish(event.finished.text))
            self.answer = event.finished
        # Any other kind comes from a newer server, which must not rely on its being understood.

    def conclude(self) -> CloudAnswer:
        """Make the answer of a stream that has ended well."""
        finished, started = self.answer, self._started
        if finished is None or started is None:
            if self._is_draining:
                raise DrainingError("the server is shutting down; another one answers")
            raise UnavailableError("the cloud's answer broke off; try again")
        return CloudAnswer(
            text=finished.text,
            model=started.model,
            fingerprint=started.fingerprint,
            finish_reason=_FINISH_REASONS[finished.reason],
            label_scores=tuple(
                LabelScore(label=score.label, log_probability=score.log_probability)
                for score in finished.label_scores
            ),
            usage=Usage(
                input_tokens=finished.usage.input_tokens,
                output_tokens=finished.usage.output_tokens,
                cached_tokens=finished.usage.cached_tokens,
                cost_micro_usd=finished.usage.cost_micro_usd,
            ),
            compute_ms=finished.usage.compute_us / 1000,
            queue_ms=finished.usage.queue_us / 1000,
            replayed=started.replayed,
            sent_bytes=self._sent_bytes,
            num_attempts=self.num_attempts,
            first_text_ms=(
                None
                if self._first_text_at is None
                else (self._first_text_at - self._began_at) * 1000
            ),
        )

    def error_of(self, wire_error: WireError) -> WireError:
        """Say what the end of a broken stream means for this request; forget a resume token that nobody knows."""
        if self.cancel.is_set():
            return RequestCancelledError("the request was cancelled")
        if isinstance(wire_error, RequestCancelledError):
            # Not by us: a server that stops cuts off what outlasts its grace.
            wire_error = UnavailableError("the cloud's answer broke off; try again")
        if self._is_draining and isinstance(wire_error, UnavailableError):
            return DrainingError(wire_error.message, retry_after_s=wire_error.retry_after_s)
        unknown_token = (NotFoundError, PreconditionError, InvalidRequestError)
        if self.request.resume_token and isinstance(wire_error, unknown_token):
            self.request.resume_token = ""
            return UnavailableError("the answer could not be continued elsewhere; try again")
        return wire_error

    def _check(self, finished: inference_pb2.Finished) -> None:
        """Refuse an end that cannot be: the router and the caller rely on every part of it."""
        labels = self._task.labels
        is_label = finished.reason == inference_pb2.FINISH_REASON_LABEL
        if finished.reason not in _FINISH_REASONS or is_label != bool(labels):
            raise InternalError("the cloud's answer ends for no known reason; report it")
        if len(finished.text) > MAX_ANSWER_CHARACTERS:
            raise InternalError("the cloud's answer does not end; report it")
        if labels and (
            finished.text not in labels
            or [score.label for score in finished.label_scores] != list(labels)
            or any(math.isnan(score.log_probability) for score in finished.label_scores)
        ):
            raise InternalError(
                "the cloud answered with something that is none of the labels; report it"
            )

    def _show(self, advance: Callable[[], str]) -> None:
        if self._on_text is None:
            return
        try:
            new = advance()
        except DivergedError:
            raise InternalError(
                "the cloud's answer broke off and goes on differently; ask again"
            ) from None
        if new:
            if self._first_text_at is None:
                self._first_text_at = self._clock()
            self._on_text(new)


class Pauses:
    """Says how long to wait between two attempts of one request, and when to give up."""

    def __init__(
        self,
        settings: RetrySettings,
        num_attempts: int,
        generation: Generation,
        jitter: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._num_attempts = num_attempts
        self._generation = generation
        self._jitter = jitter
        self._num_failures = 0

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Full jitter below a doubling bound, but never less than what the server asked for."""
        error = _error_of(state)
        if isinstance(error, InProgressError):
            return error.retry_after_s or self._settings.in_progress_pause_s
        self._num_failures += 1
        if isinstance(error, DrainingError):
            return 0.0  # another server is there already
        bound_s = min(
            self._settings.max_pause_s,
            self._settings.first_pause_s * 2.0 ** (self._num_failures - 1),
        )
        asked_s = error.retry_after_s if isinstance(error, WireError) else None
        return max(self._jitter() * bound_s, asked_s or 0.0)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        """Tell whether nothing is left to try: attempts, time, or a caller who still waits."""
        return (
            self._num_failures >= self._num_attempts
            or self._generation.cancel.is_set()
            or state.upcoming_sleep >= self._generation.left_s
        )


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
