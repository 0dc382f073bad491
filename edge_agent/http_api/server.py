"""Serves the HTTP API of one agent until the process is told to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from edge_agent.agent import EdgeAgent
from edge_agent.config import EdgeConfig
from edge_agent.enrolling import kept_certificate
from edge_agent.errors import ConfigError
from edge_agent.http_api.api import HttpSettings, create_app
from edge_agent.http_api.doorkeeper import LOOPBACK_NAMES

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

SHUTDOWN_S = 30  # running requests may take so long to end


def serve_http(config: EdgeConfig, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Open an agent and serve it; returns after SIGTERM or SIGINT, when running requests have ended.

    Args:
        config: Of the agent.
        on_ready: Called once with the address, such as ``http://127.0.0.1:8010``, when requests are answered.

    Raises:
        ConfigError: The address cannot be bound, or a setting is wrong.
    """
    host = config.http.host
    name = f"[{host}]" if ":" in host else host
    if name not in LOOPBACK_NAMES:
        logger.warning("the HTTP API listens on %s: every machine that reaches it may ask", host)
    settings = HttpSettings(
        allowed_hosts=(*LOOPBACK_NAMES, name, *config.http.allowed_hosts),
        max_body_bytes=config.http.max_body_bytes,
    )
    with (
        EdgeAgent.from_settings(config) as agent,
        kept_certificate(config.cloud),
        _followed_channel(config, agent),
    ):
        app = create_app(
            agent, default_task=agent.default_task, metrics=agent.metrics, settings=settings
        )
        run_app(app, host=host, port=config.http.port, on_ready=on_ready)


@contextmanager
def _followed_channel(config: EdgeConfig, agent: EdgeAgent) -> Iterator[None]:
    """Take releases over while the agent answers, where the configuration names their channel."""
    if not config.sync.channel or config.offline or agent.stay is None:
        yield
        return
    from edge_agent.sync.worker import SyncWorker

    worker = SyncWorker(config, agent, stay=agent.stay)
    worker.start()
    try:
        yield
    finally:
        worker.close()


def run_app(
    app: ASGIApp, *, host: str, port: int, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve an application; returns after SIGTERM or SIGINT. Only for the main thread.

    Raises:
        ConfigError: The address cannot be bound.
    """
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        ),
        on_ready,
    )
    with _surviving_signals():
        try:
            server.run()
        except SystemExit as error:  # uvicorn's way to say that it cannot bind
            raise ConfigError(
                f"cannot listen on {host}, port {port}; choose another port in [http]"
            ) from error


class _Server(uvicorn.Server):
    """Says where it listens: with port 0 nobody else knows."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]  # no import of socket here
        await super().startup(sockets)  # type: ignore[arg-type]
        if self._on_ready is not None and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


@contextmanager
def _surviving_signals() -> Iterator[None]:
    """Outlive the signals that end the server: uvicorn raises them again afterwards, and the agent is still to be closed."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
