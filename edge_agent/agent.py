"""The agent: the Python API of the device.

``with EdgeAgent.from_config("edge.toml") as agent: answer = agent.ask("Findings: ...", task="cxr-triage")``
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edge_agent.cancellation import Cancellation
from edge_agent.errors import InputError
from edge_agent.flow import Answer, Request, Route
from edge_agent.parts import Parts
from edge_agent.showing import OnText
from edge_agent.sync.running import Stay, begin, sync_folder
from edge_agent.sync.switch import Switch
from partition.task import Task
from protos.request_id import new_request_id
from protos.tracing import span

if TYPE_CHECKING:
    from edge_agent.config import EdgeConfig
    from edge_agent.extend.task_plans import TaskPlans
    from edge_agent.metrics import Metrics

logger = logging.getLogger(__name__)

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
    """

    def __init__(self, parts: Parts, *, stay: Stay | None = None) -> None:
        # numpy and the settings' library come with the first agent, not with `import edge_agent`.
        from edge_agent.journey import Journey

        self._journey = Journey
        self.stay = stay  # with the release that the configuration led to
        self._switch = Switch(parts)
        self._counting = threading.Lock()
        self._routes: Counter[Route] = Counter()

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

        running, boot = begin(config)
        return cls(assemble(running), stay=Stay(sync_folder(config), boot))

    def __enter__(self) -> Self:
        """Start delivering what waits in the outbox."""
        self._parts.delivery.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the agent."""
        self.close()

    def close(self) -> None:
        """Stop the delivery, close the channel to the cloud and free the model. A second call does nothing."""
        self._parts.delivery.close()
        if self._parts.cloud is not None:
            self._parts.cloud.close()
        if self._parts.joint is not None:
            self._parts.joint.close()
        self._parts.model.close()
        if self.stay is not None:
            self.stay.end(self.num_answers)
            self.stay = None

    @property
    def _parts(self) -> Parts:
        return self._switch.current

    @property
    def num_answers(self) -> int:
        """Answers so far."""
        return self._routes.total()

    @property
    def route_shares(self) -> tuple[tuple[str, float], ...]:
        """The share of each route in the answers so far; all that the cloud learns about them."""
        with self._counting:
            total = self._routes.total()
            return tuple((route.value, number / total) for route, number in self._routes.items())

    def switch_to(self, config: EdgeConfig) -> None:
        """Answer with another model, other tasks and other certificates from now on.

        The new model is loaded first, while the old one answers; requests under way end on the old one, which is freed
        after the last of them.

        Args:
            config: As :func:`edge_agent.sync.running.begin` returns it.

        Raises:
            ConfigError: A setting, certificate or scorer is wrong; what answers goes on, as with every error.
            PartitionError: The model or a task cannot be read, or does not fit into the memory.
        """
        from edge_agent.assembly import reassemble

        fresh = reassemble(config, self._parts)
        self._switch.replace(fresh, lambda old: old.model.close())

    @property
    def metrics(self) -> Metrics:
        """What this agent counts."""
        return self._parts.metrics

    @property
    def plans(self) -> TaskPlans | None:
        """How requests that leave are answered, by task; takes price and battery. None: nothing to choose between."""
        return self._parts.plans

    @property
    def default_task(self) -> str:
        """Task of the requests that name none."""
        return self._parts.default_task

    def setup_sha256(self, task: str) -> str:
        """Digest of everything that shapes a local answer of a task; stands in each calibration record.

        Raises:
            InputError: There is no such task.
        """
        return self._parts.trust.setup_sha256(self._parts.task(task))

    def cluster_of(self, text: str) -> str:
        """Name, in calibration records, the near-duplicates of a text; says nothing without this device's key."""
        from partition.calibration.records import cluster_of

        return cluster_of(text, self._parts.record_key)

    def label_of(self, task: str, label: str) -> str:
        """Return the label if it is one of a classify task; empty otherwise, so that records hold no other text."""
        return label if label in self._parts.task(task).labels else ""

    def was_learned(self, task: str, cluster_key: str) -> bool:
        """Tell whether the task's label head was trained on a record of this cluster."""
        head = self._parts.heads.get(task)
        return head is not None and cluster_key in head.learned_from

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task this agent knows, by name."""
        return tuple(self._parts.tasks[name] for name in sorted(self._parts.tasks))

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
        label = self._task_label(request.task)
        with span("request") as told:  # its steps, and what the cloud does of it, are below
            told.set(tandem__task=label)
            try:
                with self._switch.use() as parts:  # the whole way with one release
                    cancel = cancel or Cancellation()
                    answer = self._journey(parts, request, on_text=on_text, cancel=cancel).run()
            except Exception as error:
                self.metrics.failed(label)
                told.fail(type(error).__name__)
                raise
            told.set(tandem__route=answer.route.value, tandem__sent_bytes=answer.sent_bytes)
        with self._counting:
            self._routes[answer.route] += 1
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

        # In the caller's context, whose trace goes on there.
        within = contextvars.copy_context()
        worker = threading.Thread(
            target=within.run, args=(work,), name="tandem-stream", daemon=True
        )
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
        return self._parts.delivery.collect(request_id, keep=keep)

    def forget(self, request_id: str) -> bool:
        """Delete a QUEUED request, answered or not; False when there is none."""
        return self._parts.delivery.forget(request_id)

    def deliver(self, *, timeout_s: float) -> int:
        """Deliver what waits in the outbox now; return how many items still wait when done or out of time."""
        return self._parts.delivery.deliver(timeout_s=timeout_s)

    def status(self) -> Status:
        """Describe what runs here, without any content."""
        counts = self._parts.delivery.counts()
        return Status(
            model=self._parts.model.fingerprint,
            anonymizer=self._parts.anonymizer.version,
            cloud=self._parts.why_no_cloud or "reachable",
            tasks=tuple(sorted(self._parts.tasks)),
            certified_tasks=self._parts.trust.certified_tasks,
            queued=counts.waiting,
            dead=counts.dead,
        )

    def _as_request(self, question: Request | str, task: str | None) -> Request:
        if isinstance(question, Request):
            if task is not None and task != question.task:
                raise InputError("the request names another task than `task`; give one of them")
            return question
        return Request(id=new_request_id(), task=task or self._parts.default_task, text=question)

    def _task_label(self, name: str) -> str:
        """Keep what callers write out of the metrics."""
        return name if name in self._parts.tasks else "unknown"
