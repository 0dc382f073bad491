"""One request's audit: whether its local answer is drawn, and who gets it to judge."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from edge_agent.audit_desk import AuditCase
from edge_agent.errors import OutboxError
from edge_agent.flow import Confidence, Decision, LocalAnswer, Request, Route
from edge_agent.parts import Parts
from partition.task import Message, Task, TaskKind

logger = logging.getLogger(__name__)


class Auditing:
    """Of one request; belongs to its thread."""

    def __init__(self, parts: Parts, task: Task, request: Request, *, is_anonymized: bool) -> None:
        """Look at nothing yet.

        Args:
            parts: Of the device.
            task: Of the request.
            request: What was asked.
            is_anonymized: Its text may leave the device.
        """
        self._parts, self._task, self._request = parts, task, request
        self._is_anonymized = is_anonymized

    def draws(
        self, local: LocalAnswer | None, confidence: Confidence | None, decision: Decision
    ) -> bool:
        """Let what watches the task learn from this request; tell whether its local answer is to be checked."""
        if local is None or confidence is None:
            return False
        stood = decision.route is Route.LOCAL
        return self._parts.trust.saw(
            self._task,
            self._request.id,
            confidence,
            stood=stood,
            judged=local.text if stood and self._can_be_judged else None,
        )

    def hand_over(
        self,
        local: LocalAnswer,
        decision: Decision,
        *,
        messages: tuple[Message, ...],
        send: Callable[[], None],
    ) -> Decision:
        """Give a drawn answer to who judges it; the decision says so.

        Args:
            local: What is to be judged.
            decision: LOCAL.
            messages: What the model read.
            send: Puts the request into the outbox, for the cloud.
        """
        try:
            if self._parts.desk is None:
                send()
                judge = "the cloud"
            else:
                self._parts.desk.put(
                    AuditCase(
                        name=self._parts.trust.audit_name(self._request.id),
                        task=self._task.name,
                        taken_s=time.time(),
                        text="\n".join(message.text for message in messages),
                        answer=local.text,
                    )
                )
                judge = "a person"
        except OutboxError as error:  # the answer stands; the audit will count as an error
            logger.warning("request %s cannot be audited: %s", self._request.id, error)
            return decision
        return replace(decision, reason=f"{decision.reason}; drawn for an audit by {judge}")

    @property
    def _can_be_judged(self) -> bool:
        """The cloud can judge where a label is the whole answer, and only what may be sent to it; a person can judge all."""
        return self._parts.desk is not None or (
            self._task.kind is TaskKind.CLASSIFY
            and self._task.policy.may_leave_device
            and self._parts.cloud is not None
            and self._is_anonymized
        )
