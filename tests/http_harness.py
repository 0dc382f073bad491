"""The HTTP API on a free port of this machine, with a real uvicorn in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from edge_agent.http_api.api import HttpSettings, create_app
from edge_agent.http_api.asking import Answering
from edge_agent.metrics import Metrics


@contextmanager
def serving(
    agent: Answering,
    settings: HttpSettings | None = None,
    *,
    default_task: str = "assistant",
    metrics: Metrics | None = None,
) -> Iterator[int]:
    """Serve an agent on a free port of this machine."""
    app = create_app(
        agent, default_task=default_task, metrics=metrics or Metrics(), settings=settings
    )
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
