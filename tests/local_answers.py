"""One question to a local model, as the agent would put it."""

from __future__ import annotations

from edge_agent.flow import LocalAnswer, Request
from edge_agent.local_model import LocalModel
from partition.task import Message, Role, Task


def ask(model: LocalModel, task: Task, text: str, **settings: object) -> LocalAnswer:
    """Have the model answer; ``on_text`` and ``cancel`` are its own, all other settings the request's."""
    on_text = settings.pop("on_text", None)
    cancel = settings.pop("cancel", None)
    request = Request(id="r", task=task.name, text=text, **settings)
    messages = task.render((Message(role=Role.USER, text=text),))
    return model.answer(messages, task, request, on_text=on_text, cancel=cancel)
