"""Serves the HTTP API of one agent until the process is told to stop."""

from __future__ import annotations

import logging

from edge_agent.agent import EdgeAgent
from edge_agent.config import EdgeConfig
from edge_agent.errors import ConfigError
from edge_agent.http_api import LOOPBACK_NAMES, HttpSettings, create_app

logger = logging.getLogger(__name__)


def serve_http(config: EdgeConfig) -> None:
    """Open an agent and serve it; returns after SIGTERM or SIGINT, when running requests have ended.

    Raises:
        ConfigError: The address cannot be bound, or a setting is wrong.
    """
    import uvicorn

    host = config.http.host
    name = f"[{host}]" if ":" in host else host
    if name not in LOOPBACK_NAMES:
        logger.warning("the HTTP API listens on %s: every machine that reaches it may ask", host)
    with EdgeAgent.from_settings(config) as agent:
        app = create_app(
            agent,
            default_task=agent.default_task,
            metrics=agent.metrics,
            settings=HttpSettings(
                allowed_hosts=(*LOOPBACK_NAMES, name), max_body_bytes=config.http.max_body_bytes
            ),
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=config.http.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=30,
            )
        )
        worker = None
        if config.sync.channel and not config.offline and agent.stay is not None:
            from edge_agent.sync.worker import SyncWorker

            worker = SyncWorker(config, agent, stay=agent.stay)
            worker.start()
        try:
            server.run()
        except SystemExit as error:  # uvicorn's way to say that it cannot bind
            raise ConfigError(
                f"cannot listen on {host}, port {config.http.port}; choose another port in [http]"
            ) from error
        finally:
            if worker is not None:
                worker.close()
