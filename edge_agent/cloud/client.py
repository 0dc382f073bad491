"""The only way out of the device: calls the cloud over gRPC, and takes nothing but anonymised text.

Who tries again what: GetModel is retried by the channel (:mod:`edge_agent.cloud.channel`); Generate by this file, before and
after its first message, because only here it is known what the reader has seen; Report by its caller. Never two of them.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence

import grpc
import tenacity

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.cloud.channel import ChannelSettings, CloudChannel, TlsFiles
from edge_agent.cloud.circuit_breaker import CircuitBreaker
from edge_agent.cloud.cloud import (
    CloudAnswer,
    GenerateOptions,
    Outcome,
    WireIds,
)
from edge_agent.cloud.extend_stream import ExtendStream
from edge_agent.cloud.generation import Generation, Pauses, RetrySettings
from edge_agent.cloud.guarded_call import GuardedCalls, reading
from edge_agent.cloud.model_survey import ModelSurvey
from edge_agent.cloud.observer import CallObserver
from edge_agent.metrics import Metrics
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard, card_from_message
from partition.planning.link import LinkState, probe
from partition.planning.profile import Compute
from partition.task import Role
from protos.errors import (
    DeadlineExceededError,
    WireError,
    from_rpc_error,
)
from protos.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.metadata import QUEUED

__all__ = ["ChannelSettings", "CloudAnswer", "CloudClient", "RetrySettings", "TlsFiles"]

_INFERENCE = "tandem.inference.v1.InferenceService"
_FEEDBACK = "tandem.feedback.v1.FeedbackService"
_ROLES = {
    Role.SYSTEM: inference_pb2.ROLE_SYSTEM,
    Role.USER: inference_pb2.ROLE_USER,
    Role.ASSISTANT: inference_pb2.ROLE_ASSISTANT,
    Role.TOOL: inference_pb2.ROLE_TOOL,
}


class CloudClient:
    """Calls one cloud. Thread-safe; connects at the first call.

    ``sent_bytes`` of an answer counts, for every attempt, the request message as serialised plus gRPC's five-byte prefix.
    HTTP/2 headers and TLS come on top; nothing is compressed.
    """

    def __init__(
        self,
        target: str,
        *,
        wire_ids: WireIds,
        credentials: TlsFiles | None = None,
        insecure_loopback: bool = False,
        settings: ChannelSettings | None = None,
        retry: RetrySettings | None = None,
        breaker: CircuitBreaker | None = None,
        metrics: Metrics | None = None,
        observer: CallObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Check the arguments; opens nothing.

        Args:
            target: ``host:port``.
            wire_ids: Makes the ids that leave the device.
            credentials: Files of mutual TLS.
            insecure_loopback: Plaintext, to this very machine only.
            settings: Of the channel.
            retry: Of Generate.
            breaker: Decides when the cloud counts as unreachable.
            metrics: Where calls are counted.
            observer: Told of calls that went well.
            clock: Monotonic seconds.
            jitter: Makes numbers in [0, 1).

        Raises:
            ConfigError: No target, no certificates, or plaintext to another machine.
        """
        self._wire_ids = wire_ids
        self._retry = retry or RetrySettings()
        self._metrics = metrics or Metrics()
        self._observer = observer
        self._is_warm = (
            False  # a call has gone well since the last that did not: no handshake is timed
        )
        self._clock = clock
        self._jitter = jitter
        self._channel = CloudChannel(
            target,
            tls=credentials,
            insecure_loopback=insecure_loopback,
            settings=settings,
            metrics=self._metrics,
            clock=clock,
        )
        self._calls = GuardedCalls(
            self._channel,
            breaker=breaker or CircuitBreaker(clock=clock),
            metrics=self._metrics,
            observer=observer,
            clock=clock,
        )

    @property
    def why_unavailable(self) -> str:
        """Why the cloud is not worth a try now, in one sentence; empty when it is."""
        return self._calls.why_unavailable

    def generate(
        self,
        anonymized: Anonymized,
        *,
        options: GenerateOptions,
        deadline_s: float | None = None,
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
        num_attempts: int | None = None,
        on_sent: Callable[[int], None] | None = None,
        queued: bool = False,
    ) -> CloudAnswer:
        """Have the large model answer; see :class:`edge_agent.cloud.cloud.Cloud`."""
        if type(anonymized) is not Anonymized:  # not isinstance: a subclass could hold anything
            raise TypeError("only Anonymized may leave the device; anonymize the request first")
        if deadline_s is None:
            deadline_s = min(120.0, 10.0 + 0.1 * options.max_output_tokens)
        generation = Generation(
            request=self._generate_request(anonymized, options),
            task=anonymized.task,
            on_text=on_text,
            on_sent=on_sent,
            queued=queued,
            cancel=cancel or threading.Event(),
            ends_at=self._clock() + deadline_s,
            clock=self._clock,
        )
        pauses = Pauses(
            self._retry, num_attempts or self._retry.num_attempts, generation, self._jitter
        )
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_retry),
            wait=pauses.wait,
            stop=pauses.stop,
            sleep=generation.pause,
            before_sleep=lambda _state: self._metrics.call_retried(),
            reraise=True,
        )
        answer: CloudAnswer = retrying(self._attempt, generation)
        return answer

    def open_frames(self, anonymized: Anonymized, opening: Opening) -> ExtendStream:
        """Open a session for VERIFY or SPLIT of one request; connects with the first frame.

        Args:
            anonymized: The request whose ids or hidden states will travel; nothing else is accepted.
            opening: What both sides must agree on.

        Raises:
            TypeError: ``anonymized`` is something else.
        """
        if type(anonymized) is not Anonymized:
            raise TypeError("only Anonymized may leave the device; anonymize the request first")
        return ExtendStream(self._channel.lend, opening, clock=self._clock)

    def get_model(self, *, deadline_s: float = 10.0) -> ModelCard:
        """Ask which model answers; see :class:`edge_agent.cloud.cloud.Cloud`."""
        request = inference_pb2.GetModelRequest()
        with self._calls.call(_INFERENCE, "GetModel") as call:
            stub = inference_pb2_grpc.InferenceServiceStub(call.channel)
            call.sent(request)
            response = stub.GetModel(request, timeout=deadline_s, metadata=call.metadata)
            call.received(response)
            self._calls.first_reply(call)
        return card_from_message(response)

    def probe_link(self, *, deadline_s: float = 30.0) -> LinkState:
        """Measure the way to the cloud with bytes of no meaning; nothing of any request goes along.

        Raises:
            WireError: The cloud cannot be reached, or is too old to be probed.
        """
        until = self._clock() + deadline_s

        def exchange(bytes_up: int, bytes_down: int) -> float:
            request = inference_pb2.ProbeRequest(
                padding=os.urandom(bytes_up), reply_bytes=bytes_down
            )
            with self._calls.call(_INFERENCE, "Probe") as call:
                stub = inference_pb2_grpc.InferenceServiceStub(call.channel)
                call.sent(request)
                response = stub.Probe(request, timeout=max(0.001, until - self._clock()))
                call.received(response)
            return float(response.server_us / 1e6)

        return probe(exchange, clock=self._clock)

    def measure_model(
        self, *, on_progress: Callable[[float], None] = lambda share: None
    ) -> Compute:
        """Measure the cloud's model with random ids and rows; nothing of any request goes along.

        Raises:
            WireError: The cloud cannot be reached, or keeps no sessions.
        """

        def open_channel(opening: Opening) -> ExtendStream:
            return ExtendStream(self._channel.lend, opening, clock=self._clock)

        survey = ModelSurvey(
            open_channel, self.get_model(), clock=self._clock, on_progress=on_progress
        )
        return survey.measure()

    def report(
        self, report_id: str, outcomes: Sequence[Outcome], *, deadline_s: float = 10.0
    ) -> int:
        """Tell how answers turned out; see :class:`edge_agent.cloud.cloud.Cloud`."""
        request = feedback_pb2.ReportRequest(
            request_id=self._wire_ids.of(report_id),
            outcomes=[
                feedback_pb2.Outcome(
                    answered_request_id=self._wire_ids.of(outcome.answered_request_id),
                    task=outcome.task,
                    route=outcome.route,
                    score=outcome.score,
                    fingerprint=outcome.fingerprint,
                    verdict=f"VERDICT_{outcome.verdict}",
                    reviewed_label=outcome.reviewed_label,
                    answered_unix_ms=outcome.answered_unix_ms,
                )
                for outcome in outcomes
            ],
        )
        with self._calls.call(_FEEDBACK, "Report") as call:
            stub = feedback_pb2_grpc.FeedbackServiceStub(call.channel)
            call.sent(request)
            response = stub.Report(request, timeout=deadline_s, metadata=call.metadata)
            call.received(response)
        return int(response.num_stored)

    def close(self) -> None:
        """End every call and close the connection. A second call does nothing."""
        self._channel.close()

    def _generate_request(
        self, anonymized: Anonymized, options: GenerateOptions
    ) -> inference_pb2.GenerateRequest:
        task = anonymized.task
        return inference_pb2.GenerateRequest(
            request_id=self._wire_ids.of(anonymized.request_id),
            model=options.model,
            messages=[
                inference_pb2.Message(role=_ROLES[message.role], text=message.text)
                for message in task.render(anonymized.messages)
            ],
            sampling=inference_pb2.Sampling(
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                seed=options.seed & (1 << 64) - 1,
            ),
            max_output_tokens=options.max_output_tokens,
            stop=options.stop,
            labels=task.labels,
            task=task.name,
        )

    def _attempt(self, generation: Generation) -> CloudAnswer:
        """Make one call of Generate and read it to its end."""
        left_s = generation.begin_attempt()
        with self._calls.call(_INFERENCE, "Generate") as call:
            stub = inference_pb2_grpc.InferenceServiceStub(call.channel)
            call.sent(generation.request)
            generation.sent(call.sent_bytes)
            metadata = (*call.metadata, *(((QUEUED, "1"),) if generation.queued else ()))
            stub_call = stub.Generate(generation.request, timeout=left_s, metadata=metadata)
            with reading(stub_call, generation.cancel) as stream:
                try:
                    for event in stream:
                        call.received(event)
                        if event.WhichOneof("event") == "started":
                            self._calls.first_reply(call, server_s=event.started.server_us / 1e6)
                        generation.take(event)
                except grpc.RpcError as error:
                    if generation.answer is None:
                        raise generation.error_of(from_rpc_error(error)) from error
                    # The answer is complete; only the end of the stream was lost.
            answer = generation.conclude()
        if self._observer is not None:
            self._observer.answered(answer)
        return answer


def _may_retry(error: BaseException) -> bool:
    return (
        isinstance(error, WireError)
        and error.is_transient
        and not isinstance(error, DeadlineExceededError)
    )
