"""What a request passes through on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.errors import InputError
from partition.task import Task

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymizer import Anonymizer
    from edge_agent.anonymize.closed import ClosedAnonymizer
    from edge_agent.audit_desk import AuditDesk
    from edge_agent.cloud.cloud import Cloud
    from edge_agent.extend.joint_route import JointRoute
    from edge_agent.extend.task_plans import TaskPlans
    from edge_agent.local_model import LocalModel
    from edge_agent.metrics import Metrics
    from edge_agent.outbox.delivery import Delivery
    from edge_agent.purse import Purse
    from edge_agent.trust import Trust
    from partition.calibration.label_head import LabelHead


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a request passes through on this device; each part is thread-safe."""

    tasks: Mapping[str, Task]
    default_task: str
    anonymizer: Anonymizer | ClosedAnonymizer
    model: LocalModel
    trust: Trust
    cloud: Cloud | None  # None: this agent works alone
    delivery: Delivery
    metrics: Metrics
    joint: JointRoute | None = None  # None: the cloud writes alone
    plans: TaskPlans | None = None  # None: nothing to choose between ways to the cloud
    heads: Mapping[str, LabelHead] = field(default_factory=dict)  # by task
    purse: Purse | None = None  # None: the cloud may cost what it will
    desk: AuditDesk | None = None  # where audits wait for a person; None: the cloud judges them
    record_key: bytes = field(
        default=b"", repr=False
    )  # secret under which records name near-duplicates

    def task(self, name: str) -> Task:
        """Find a task.

        Raises:
            InputError: There is none of that name.
        """
        try:
            return self.tasks[name]
        except KeyError:
            names = ", ".join(sorted(self.tasks))
            raise InputError(f"unknown task; this agent has {names}") from None

    @property
    def why_no_cloud(self) -> str:
        """Why the cloud cannot be asked now, in one sentence; empty when it can."""
        if self.cloud is None:
            return "this agent works without a cloud"
        return self.cloud.why_unavailable
