"""One request on its way through the device: every step in order, and what each leaves for the next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge_agent.auditing import Auditing
from edge_agent.cancellation import Cancellation
from edge_agent.cloud.cloud import CloudAnswer, GenerateOptions
from edge_agent.confidence import assess
from edge_agent.errors import AnonymizationError, RequestStoppedError
from edge_agent.extend.after_prefix import AfterPrefix
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
from edge_agent.labelling import relabelled
from edge_agent.parts import Parts
from edge_agent.preprocess import prepare
from edge_agent.purse import Grant
from edge_agent.restore import Restored, StreamRestorer, restore
from edge_agent.router import Situation, decide, give_way
from edge_agent.showing import OnText, Showing
from edge_agent.stopwatch import Stopwatch
from edge_agent.trust import stopped_by_gate
from partition.calibration.prompt_gate import prompt_vector
from partition.errors import PartitionError
from partition.task import Message, Task, TaskKind

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from edge_agent.vault import Vault

logger = logging.getLogger(__name__)

_STOPPED = "the caller gave up; ask again if the answer is still wanted"


class Journey:
    """One request on its way; belongs to one thread. What each step made is kept here until the answer."""

    def __init__(
        self, parts: Parts, request: Request, *, on_text: OnText | None, cancel: Cancellation
    ) -> None:
        self._parts = parts
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
        self._prompt: tuple[float, ...] = ()  # hashed words, where a gate or a record needs them
        self._is_stopped = False  # by the gate: no local answer may stand by itself

    def run(self) -> Answer:
        """Go the whole way, once; raises what :meth:`edge_agent.agent.EdgeAgent.ask` raises."""
        try:
            return self._run()
        finally:
            if self._vault is not None:
                self._vault.wipe()

    def _run(self) -> Answer:
        parts, watch = self._parts, self._watch
        task = parts.task(self._request.task)
        with watch.step("preprocess"):
            prepared = prepare(self._request, task)
        with watch.step("anonymize"):
            messages = self._anonymize(prepared)
        local, confidence = None, None
        is_skipped = self._skips_local(task, messages)
        if not is_skipped:
            local, confidence = self._answer_here(task, messages)
        with watch.step("router"):
            decision = self._decide(confidence, task, parts.why_no_cloud)
        auditing = Auditing(parts, task, self._request, is_anonymized=self._anonymized is not None)
        is_audited = auditing.draws(local, confidence, decision)
        if decision.route is Route.CLOUD:
            grant = self._ask_purse(task, confidence)
            cloud = grant.why_not or self._ask_cloud(task, grant)
            if not isinstance(cloud, str):
                decision = Decision(route=cloud.route, reason=decision.reason)
                return self._answer(
                    cloud.text,
                    decision,
                    confidence,
                    local,
                    model=cloud.fingerprint,
                    usage=cloud.usage,
                )
            if is_skipped:  # now it is needed after all
                local, confidence = self._answer_here(task, messages)
            if grant.why_not and parts.purse is not None:
                decision = give_way(
                    decision,
                    gives_way=parts.purse.gives_way,
                    why=grant.why_not,
                    policy=task.policy,
                    has_local=local is not None,
                )
            else:
                decision = self._decide(confidence, task, cloud)
        if decision.route is Route.QUEUED:
            self._put_into_outbox(task)
        elif is_audited and local is not None:
            decision = auditing.hand_over(
                local, decision, messages=messages, send=lambda: self._put_into_outbox(task)
            )
        return self._answer_of_device(local, decision, confidence)

    # --- the steps

    def _anonymize(self, prepared: Prepared) -> tuple[Message, ...]:
        """Return the messages both tiers read; on failure the originals, which then stay on the device."""
        try:
            self._anonymized, self._vault = self._parts.anonymizer.anonymize(prepared)
        except AnonymizationError as error:
            self._why_not_anonymized = str(error)
            logger.warning("request %s stays on the device: %s", self._request.id, error)
            return prepared.messages
        return self._anonymized.messages

    def _answer_here(
        self, task: Task, messages: tuple[Message, ...]
    ) -> tuple[LocalAnswer | None, Confidence | None]:
        with self._watch.step("local_model"):
            local = self._answer_locally(task, messages)
        with self._watch.step("confidence"):
            return local, self._assess(local, task)

    def _skips_local(self, task: Task, messages: tuple[Message, ...]) -> bool:
        """Tell whether the local answer would be thrown away however sure it were: then the model is not asked.

        So it is while a certificate is suspended or missing and nothing uncertified may stand, by policy, or where the task's
        gate expects no sure answer. Where the cloud or the budget lets the request down afterwards, the model is asked then.
        """
        gate = self._parts.trust.gate(task)
        if gate is not None or self._request.needs_local:
            self._prompt = prompt_vector(messages[-1].text)
        self._is_stopped = gate is not None and not gate.passes(self._prompt)
        if self._request.needs_local:
            return False
        decisions = self._decisions_at_extremes(task)
        if any(decision.route is not Route.CLOUD for decision in decisions):
            return False
        self._why_no_local = f"the model was not asked, because of {decisions[-1].reason}"
        return True

    def _answer_locally(self, task: Task, messages: tuple[Message, ...]) -> LocalAnswer | None:
        show = self._restorer() if self._text_stands_anyway(task) else None
        head = self._parts.heads.get(task.name)
        try:
            answer = self._parts.model.answer(
                task.render(messages),
                task,
                self._request,
                on_text=show.feed if show is not None and head is None else None,
                cancel=self._cancel,
            )
        except (
            PartitionError
        ) as error:  # too long for the small model, say; the cloud may still answer
            self._why_no_local = str(error)
            return None
        if self._cancel.is_set():
            raise RequestStoppedError(_STOPPED)
        if head is not None:
            answer = relabelled(answer, head)
        if show is not None:
            if head is not None:
                show.feed(answer.text)
            show.finish()
        return answer

    def _assess(self, local: LocalAnswer | None, task: Task) -> Confidence | None:
        if local is None:
            return None
        return assess(local, task, self._parts.trust.scorer(task))

    def _decide(self, confidence: Confidence | None, task: Task, why_no_cloud: str) -> Decision:
        verdict = self._parts.trust.verdict(task)
        if self._is_stopped and verdict.threshold is not None:
            verdict = stopped_by_gate(verdict)
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
        routes = {decision.route for decision in self._decisions_at_extremes(task)}
        self._text_stood = routes <= {Route.LOCAL, Route.QUEUED}
        return self._text_stood

    def _decisions_at_extremes(self, task: Task) -> tuple[Decision, Decision]:
        """What would be decided of the least and of the most sure answer."""
        why_no_cloud = self._parts.why_no_cloud
        least = Confidence(probability=0.0, score=float("-inf"))
        most = Confidence(probability=1.0, score=float("inf"))
        return self._decide(least, task, why_no_cloud), self._decide(most, task, why_no_cloud)

    def _ask_purse(self, task: Task, confidence: Confidence | None) -> Grant:
        purse = self._parts.purse
        if purse is None:
            return Grant()
        assert self._anonymized is not None
        messages = task.render(self._anonymized.messages)
        return purse.ask(
            num_bytes=sum(len(message.text.encode()) for message in messages),
            max_output_tokens=GenerateOptions.of(self._request, task).max_output_tokens,
            probability=confidence.probability if confidence is not None else None,
        )

    def _ask_cloud(self, task: Task, grant: Grant) -> CloudAnswer | str:
        """As :meth:`_call_cloud`, and enter what it cost."""
        answer: CloudAnswer | str = ""
        try:
            answer = self._call_cloud(task)
        finally:
            purse = self._parts.purse
            if purse is not None and not isinstance(answer, str):
                purse.settle(grant, answer.usage)
            elif purse is not None and not self._sent_bytes:
                purse.settle(grant, None)  # what left and got no answer may have been billed
        return answer

    def _call_cloud(self, task: Task) -> CloudAnswer | str:
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

        cloud = self._parts.cloud
        assert cloud is not None
        assert self._anonymized is not None
        show = self._restorer()
        options = GenerateOptions.of(self._request, task)
        with self._watch.step("cloud"):
            try:
                joint = self._answer_jointly(task, options, show)
                if not isinstance(joint, str):
                    show.finish()
                    return joint
                answer = cloud.generate(
                    self._anonymized,
                    options=options,
                    deadline_s=task.limits.deadline_s,
                    on_text=AfterPrefix(joint, show.feed) if self._on_text is not None else None,
                    cancel=self._cancel,
                    on_sent=self._count_sent,
                )
            except RequestCancelledError:
                raise RequestStoppedError(_STOPPED) from None
            except (InvalidRequestError, NotFoundError, PreconditionError, UnsupportedError):
                raise
            except WireError as error:
                logger.warning("request %s: %s", self._request.id, error)
                return str(error)
        show.finish()
        self._parts.delivery.wake()
        return answer

    def _answer_jointly(
        self, task: Task, options: GenerateOptions, show: Showing
    ) -> CloudAnswer | str:
        """Have device and cloud answer together, by VERIFY or SPLIT; else return what was shown of the answer so far."""
        if self._parts.joint is None or task.kind is not TaskKind.GENERATE:
            return ""
        assert self._anonymized is not None
        return self._parts.joint.try_answer(
            self._parts.model,
            self._anonymized,
            options,
            deadline_s=task.limits.deadline_s,
            on_text=show.feed if self._on_text is not None else lambda piece: None,
            cancel=self._cancel,
            on_sent=self._count_sent,
        )

    def _count_sent(self, num_bytes: int) -> None:
        self._sent_bytes += num_bytes

    def _put_into_outbox(self, task: Task) -> None:
        assert self._anonymized is not None
        assert self._vault is not None
        with self._watch.step("outbox"):
            self._parts.delivery.put(self._anonymized, self._vault, self._request, task)

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
        model = self._parts.model.fingerprint
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
                result = LocalResult(
                    text=self._restore(local.text).text,
                    confidence=confidence,
                    hidden=local.hidden,
                    prompt=self._prompt,
                )
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
            flagged=decision.flagged,
        )

    # --- surrogates back to originals

    def _restore(self, text: str) -> Restored:
        return restore(text, self._vault) if self._vault is not None else Restored(text, 0)

    def _restorer(self) -> Showing:
        return Showing(StreamRestorer(self._vault) if self._vault is not None else None, self._emit)

    def _emit(self, text: str) -> None:
        if text and self._on_text is not None:
            self._streamed += text
            self._on_text(text)
