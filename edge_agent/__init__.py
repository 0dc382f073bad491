"""The device: answers requests with a small model when it is sure, and asks the cloud, anonymised, when it is not."""

from edge_agent.agent import EdgeAgent, Status
from edge_agent.flow import Answer, Entity, KnownValue, Request, Route
from partition.task import Message, Role
from protos.request_id import new_request_id

__all__ = [
    "Answer",
    "EdgeAgent",
    "Entity",
    "KnownValue",
    "Message",
    "Request",
    "Role",
    "Route",
    "Status",
    "new_request_id",
]
