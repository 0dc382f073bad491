"""Who may come in: programs of this machine, and no web page."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.http_api.bodies import ApiError
from edge_agent.http_api.problems import response_of

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class Doorkeeper:
    """Refuses what a web page could send: a name that was rebound to this machine, a foreign origin."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"]]
            hosts = [value for name, value in headers if name == b"host"]
            origins = [value for name, value in headers if name == b"origin"]
            if len(hosts) != 1 or not self._is_allowed(hosts[0]):
                error = ApiError(
                    403,
                    "this Host is not served; use a loopback address, or list it in allowed_hosts",
                )
                await response_of(error)(scope, receive, send)
                return
            if any(not self._is_allowed(origin.partition(b"://")[2]) for origin in origins):
                error = ApiError(
                    403, "pages of this Origin may not ask; list its host in allowed_hosts"
                )
                await response_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, host: bytes) -> bool:
        name = re.sub(r":\d{1,5}\Z", "", host.decode("latin-1").lower())
        return name in self._allowed
