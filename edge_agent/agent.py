"""The agent: one request's way through the device, step by step, and the Python API round it.

with EdgeAgent.from_config("edge.toml") as agent:
answer = agent.ask("Findings: ...", task="cxr-triage")
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edge_agent.cancellation import Cancellation
from edge_agent.cloud import Cloud, CloudAnswer, GenerateOptions
from edge_agent.confidence import assess
from edge_agent.errors import AnonymizationError, InputError, RequestStoppedError
from edge_agent.flow import (
    Answer,
    Confidence,
    Decision,
    LocalAnswer,
    LocalResult,
    Prepared,
    Request,
    Route,
    Usage,
)
from edge_agent.preprocess import prepare
from edge_agent.restore import Restored, StreamRestorer, restore
from edge_agent.router import Situation, decide
from edge_agent.stopwatch import Stopwatch
from partition.errors import PartitionError
from partition.task import Message, Task
from protos.request_id import new_request_id

if TYPE_CHECKING:
    from edge_agent.anonymize import Anonymized, Anonymizer
    from edge_agent.config import EdgeConfig
    from edge_agent.delivery import Delivery
    from edge_agent.local_model import LocalModel
    from edge_agent.metrics import Metrics
    from edge_agent.trust import Trust
    from edge_agent.vault import Vault

logger = logging.getLogger(__name__)

OnText = Callable[[str], None]
_STOPPED = "the caller gave up; ask again if the answer is still wanted"
STREAM_PIECES = 64  # between the model and a slow reader; the model waits when they are full


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the agent says about itself; no content of any request."""

    model: str
    anonymizer: str
    cloud: str  # "reachable", or why not
    tasks: tuple[str, ...]
    certified_tasks: tuple[str, ...]
    queued: int
    dead: int


class EdgeAgent:
    """Answers requests on the device when it is sure, and asks the cloud, anonymised, when it is not.

    Thread-safe: many threads may ask one agent. It owns its parts and closes them.

    Attributes:
        metrics: What this agent counts.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task],
        default_task: str,
        model: LocalModel,
        anonymizer: Anonymizer,
        trust: Trust,
        cloud: Cloud | None,
        delivery: Delivery,
        metrics: Metrics,
    ) -> None:
        self._tasks = dict(tasks)
        self._default_task = default_task
        self._model = model
        self._anonymizer = anonymizer
        self._trust = trust
        self._cloud = cloud
        self._delivery = delivery
        self.metrics = metrics

    @classmethod
    def from_config(cls, path: str | Path | None = None, **flags: Any) -> Self:
        """Assemble an agent from a TOML file, the environment and flags (see :mod:`edge_agent.config`).

        Loads the model, and fetches it first when it is not in the cache.

        Raises:
            ConfigError: A setting, task file, certificate or scorer is wrong.
            ModelStoreError: The model or a pipeline of the anonymizer cannot be had.
        """
        from edge_agent.config import load_config

        return cls.from_settings(load_config(Path(path) if path is not None else None, flags=flags))

    @classmethod
    def from_settings(cls, config: EdgeConfig) -> Self:
        """Assemble an agent from a configuration that was read already; raises what :meth:`from_config` raises."""
        from edge_agent.assembly import assemble

        return cls(**assemble(config))

    def __enter__(self) -> Self:
        """Start delivering what waits in the outbox."""
        self._delivery.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the agent."""
        self.close()

    def close(self) -> None:
        """Stop the delivery, close the channel to the cloud and free the model. A second call does nothing."""
        self._delivery.close()
        if self._cloud is not None:
            self._cloud.close()
        self._model.close()

    @property
    def default_task(self) -> str:
        """Task of the requests that name none."""
        return self._default_task

    def setup_sha256(self, task: str) -> str:
        """Digest of everything that shapes a local answer of a task; stands in each calibration record.

        Raises:
            InputError: There is no such task.
        """
        return self._trust.setup_sha256(self._task(task))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task this agent knows, by name."""
        return tuple(self._tasks[name] for name in sorted(self._tasks))

    def ask(
        self,
        question: Request | str,
        *,
        task: str | None = None,
        on_text: OnText | None = None,
        cancel: Cancellation | None = None,
    ) -> Answer:
        """Answer one request.

        Args:
            question: The request, or just its text.
            task: The task of a text; None: the configured default.
            on_text: Called with pieces of the restored answer as soon as they are certain to stand.
            cancel: Set by another thread to give up.

        Raises:
            InputError: The request is empty, too long, malformed, or of an unknown task.
            RequestStoppedError: ``cancel`` was set.
            OutboxError: The request has to wait for the cloud and cannot be stored.
            WireError: The cloud refuses the request for good; the message says why.
        """
        request = self._as_request(question, task)
        journey = _Journey(self, request, on_text=on_text, cancel=cancel or Cancellation())
        try:
            answer = journey.run()
        except Exception:
            self.metrics.failed(self._task_label(request.task))
            raise
        self.metrics.answered(request.task, answer)
        logger.info(
            "request %s: %s, task %s, %d identifiers replaced, %d bytes sent, %.0f ms",
            answer.request_id,
            answer.route,
            request.task,
            sum(answer.num_replaced.values()),
            answer.sent_bytes,
            answer.latency_ms["total"],
        )
        return answer

    def stream(self, question: Request | str, *, task: str | None = None) -> Iterator[str | Answer]:
        """Answer one request piece by piece: texts, then the whole :class:`Answer`.

        A local answer that might still be rejected is not shown before the decision. Closing the iterator cancels.

        Raises:
            The errors of :meth:`ask`, from the iteration.
        """
        request = self._as_request(question, task)
        pieces: queue.Queue[str | Answer | BaseException] = queue.Queue(maxsize=STREAM_PIECES)
        cancel = Cancellation()

        def put(piece: str | Answer | BaseException) -> None:
            while not cancel.is_set():
                try:
                    pieces.put(piece, timeout=0.1)
                except queue.Full:
                    continue
                return

        def work() -> None:
            try:
                put(self.ask(request, on_text=put, cancel=cancel))
            except Exception as error:  # crosses to the reader's thread, and is raised there
                put(error)

        worker = threading.Thread(target=work, name="tandem-stream", daemon=True)
        worker.start()
        try:
            while True:
                piece = pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if isinstance(piece, Answer):
                    return
        finally:
            cancel.set()
            worker.join()

    def collect(self, request_id: str, *, keep: bool = False) -> Answer | None:
        """Return the better answer of a QUEUED request once it has come; None until then.

        It is forgotten unless ``keep`` is set: then :meth:`forget` deletes it, once the answer has safely arrived elsewhere.

        Raises:
            InputError: No request of that id waits here, or its answer was collected already.
            OutboxError: The outbox cannot be read.
        """
        return self._delivery.collect(request_id, keep=keep)

    def forget(self, request_id: str) -> bool:
        """Delete a QUEUED request, answered or not; False when there is none."""
        return self._delivery.forget(request_id)

    def deliver(self, *, timeout_s: float) -> int:
        """Deliver what waits in the outbox now; return how many items still wait when done or out of time."""
        return self._delivery.deliver(timeout_s=timeout_s)

    def status(self) -> Status:
        """Describe what runs here, without any content."""
        counts = self._delivery.counts()
        return Status(
            model=self._model.fingerprint,
            anonymizer=self._anonymizer.version,
            cloud=self._why_no_cloud() or "reachable",
            tasks=tuple(sorted(self._tasks)),
            certified_tasks=self._trust.certified_tasks,
            queued=counts.waiting,
            dead=counts.dead,
        )

    def _as_request(self, question: Request | str, task: str | None) -> Request:
        if isinstance(question, Request):
            if task is not None and task != question.task:
                raise InputError("the request names another task than `task`; give one of them")
            return question
        return Request(id=new_request_id(), task=task or self._default_task, text=question)

    def _task(self, name: str) -> Task:
        try:
            return self._tasks[name]
        except KeyError:
            raise InputError(
                f"unknown task; this agent has {', '.join(sorted(self._tasks))}"
            ) from None

    def _task_label(self, name: str) -> str:
        """Keep what callers write out of the metrics."""
        return name if name in self._tasks else "unknown"

    def _why_no_cloud(self) -> str:
        if self._cloud is None:
            return "this agent works without a cloud"
        return self._cloud.why_unavailable


class _Journey:
    """One request on its way; belongs to one thread. What each step made is kept here until the answer."""

    def __init__(
        self, agent: EdgeAgent, request: Request, *, on_text: OnText | None, cancel: Cancellation
    ) -> None:
        self._agent = agent
        self._request = request
        self._on_text = on_text
        self._cancel = cancel
        self._watch = Stopwatch()
        self._streamed = ""  # what the caller has seen already
        self._text_stood = (
            False  # the local text was streamed, because it would be the answer anyway
        )
        self._anonymized: Anonymized | None = None
        self._vault: Vault | None = None
        self._why_not_anonymized = ""
        self._why_no_local = ""
        self._sent_bytes = 0

    def run(self) -> Answer:
        try:
            return self._run()
        finally:
            if self._vault is not None:
                self._vault.wipe()

    def _run(self) -> Answer:
        agent, watch = self._agent, self._watch
        task = agent._task(self._request.task)
        with watch.step("preprocess"):
            prepared = prepare(self._request, task)
        with watch.step("anonymize"):
            messages = self._anonymize(prepared)
        with watch.step("local_model"):
            local = self._answer_locally(task, messages)
        with watch.step("confidence"):
            confidence = self._assess(local, task)
        with watch.step("router"):
            decision = self._decide(confidence, task, agent._why_no_cloud())
        if decision.route is Route.CLOUD:
            cloud = self._ask_cloud(task)
            if not isinstance(cloud, str):
                return self._answer(
                    cloud.text,
                    decision,
                    confidence,
                    local,
                    model=cloud.fingerprint,
                    usage=cloud.usage,
                )
            decision = self._decide(confidence, task, cloud)
        if decision.route is Route.QUEUED:
            self._put_into_outbox(task)
        return self._answer_of_device(local, decision, confidence)

    # --- the steps

    def _anonymize(self, prepared: Prepared) -> tuple[Message, ...]:
        """Return the messages both tiers read; on failure the originals, which then stay on the device."""
        try:
            self._anonymized, self._vault = self._agent._anonymizer.anonymize(prepared)
        except AnonymizationError as error:
            self._why_not_anonymized = str(error)
            logger.warning("request %s stays on the device: %s", self._request.id, error)
            return prepared.messages
        return self._anonymized.messages

    def _answer_locally(self, task: Task, messages: tuple[Message, ...]) -> LocalAnswer | None:
        show = self._restorer() if self._text_stands_anyway(task) else None
        try:
            answer = self._agent._model.answer(
                task.render(messages),
                task,
                self._request,
                on_text=show.feed if show is not None else None,
                cancel=self._cancel,
            )
        except (
            PartitionError
        ) as error:  # too long for the small model, say; the cloud may still answer
            self._why_no_local = str(error)
            return None
        if self._cancel.is_set():
            raise RequestStoppedError(_STOPPED)
        if show is not None:
            show.finish()
        return answer

    def _assess(self, local: LocalAnswer | None, task: Task) -> Confidence | None:
        if local is None:
            return None
        return assess(local, task, self._agent._trust.scorer(task))

    def _decide(self, confidence: Confidence | None, task: Task, why_no_cloud: str) -> Decision:
        verdict = self._agent._trust.verdict(task)
        situation = Situation(
            why_no_cloud=why_no_cloud,
            why_not_anonymized=self._why_not_anonymized,
            why_no_local=self._why_no_local,
            threshold=verdict.threshold,
            why_no_certificate=verdict.why_no_certificate,
        )
        return decide(confidence, task.policy, situation)

    def _text_stands_anyway(self, task: Task) -> bool:
        """Tell whether the local text will be the answer whatever its confidence, so that it may be streamed at once."""
        if self._on_text is None:
            return False
        why_no_cloud = self._agent._why_no_cloud()
        extremes = (
            Confidence(probability=0.0, score=float("-inf")),
            Confidence(probability=1.0, score=float("inf")),
        )
        routes = {self._decide(extreme, task, why_no_cloud).route for extreme in extremes}
        self._text_stood = routes <= {Route.LOCAL, Route.QUEUED}
        return self._text_stood

    def _ask_cloud(self, task: Task) -> CloudAnswer | str:
        """Return the cloud's answer, or in one sentence why there is none for now.

        Raises:
            WireError: There will be none, however often one asks.
        """
        from protos.errors import (  # here, not above: this loads gRPC
            InvalidRequestError,
            NotFoundError,
            PreconditionError,
            RequestCancelledError,
            UnsupportedError,
            WireError,
        )

        cloud = self._agent._cloud
        assert cloud is not None
        assert self._anonymized is not None
        show = self._restorer()
        with self._watch.step("cloud"):
            try:
                answer = cloud.generate(
                    self._anonymized,
                    options=GenerateOptions.of(self._request, task),
                    deadline_s=task.limits.deadline_s,
                    on_text=show.feed if self._on_text is not None else None,
                    cancel=self._cancel,
                )
            except RequestCancelledError:
                raise RequestStoppedError(_STOPPED) from None
            except (InvalidRequestError, NotFoundError, PreconditionError, UnsupportedError):
                raise
            except WireError as error:
                logger.warning("request %s: %s", self._request.id, error)
                return str(error)
        show.finish()
        self._sent_bytes += answer.sent_bytes
        self._agent._delivery.wake()
        return answer

    def _put_into_outbox(self, task: Task) -> None:
        assert self._anonymized is not None
        assert self._vault is not None
        with self._watch.step("outbox"):
            self._agent._delivery.put(self._anonymized, self._vault, self._request, task)

    # --- the answer

    def _answer_of_device(
        self, local: LocalAnswer | None, decision: Decision, confidence: Confidence | None
    ) -> Answer:
        if self._streamed and decision.route is not Route.LOCAL and not self._text_stood:
            # Pieces of the cloud's answer cannot be taken back; the local text would contradict them.
            reason = f"{decision.reason}; what was streamed breaks off, the whole answer follows"
            decision = Decision(route=decision.route, reason=reason)
            return self._answer(None, decision, confidence, local, model="", usage=Usage())
        if local is None or decision.route is Route.REFUSED:
            return self._answer("", decision, confidence, local, model="", usage=Usage())
        usage = Usage(
            input_tokens=local.num_input_tokens,
            output_tokens=local.num_output_tokens,
            cached_tokens=local.num_cached_tokens,
        )
        model = self._agent._model.fingerprint
        return self._answer(local.text, decision, confidence, local, model=model, usage=usage)

    def _answer(
        self,
        text: str | None,
        decision: Decision,
        confidence: Confidence | None,
        local: LocalAnswer | None,
        *,
        model: str,
        usage: Usage,
    ) -> Answer:
        """Restore and hand out; ``text`` None: what was streamed already is all there is."""
        with self._watch.step("restore"):
            restored = self._restore(text) if text is not None else Restored(self._streamed, 0)
            result = None
            if local is not None and confidence is not None:
                result = LocalResult(text=self._restore(local.text).text, confidence=confidence)
        if self._on_text is not None and not self._streamed:
            self._emit(restored.text)
        return Answer(
            request_id=self._request.id,
            text=restored.text,
            route=decision.route,
            reason=decision.reason,
            confidence=confidence.probability if confidence is not None else None,
            model=model,
            usage=usage,
            latency_ms=self._watch.read(),
            sent_bytes=self._sent_bytes,
            num_replaced=self._anonymized.num_replaced if self._anonymized is not None else {},
            num_unknown_surrogates=restored.num_unknown,
            local=result,
        )

    # --- surrogates back to originals

    def _restore(self, text: str) -> Restored:
        return restore(text, self._vault) if self._vault is not None else Restored(text, 0)

    def _restorer(self) -> _Showing:
        return _Showing(
            StreamRestorer(self._vault) if self._vault is not None else None, self._emit
        )

    def _emit(self, text: str) -> None:
        if text and self._on_text is not None:
            self._streamed += text
            self._on_text(text)


class _Showing:
    """Restores the pieces of one stream and passes them on."""

    def __init__(self, restorer: StreamRestorer | None, emit: OnText) -> None:
        self._restorer = restorer
        self._emit = emit

    def feed(self, piece: str) -> None:
        self._emit(self._restorer.feed(piece) if self._restorer is not None else piece)

    def finish(self) -> None:
        if self._restorer is not None:
            self._emit(self._restorer.finish())
