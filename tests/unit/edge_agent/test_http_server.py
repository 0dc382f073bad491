"""The server process: says where it listens, ends in good order, names a port it cannot have."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from edge_agent.errors import ConfigError
from edge_agent.http_api.server import run_app

ROOT = Path(__file__).parents[3]
SERVER = """
import sys
sys.path.insert(0, {root!r})
from edge_agent.http_api.server import run_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])
run_app(app, host="127.0.0.1", port=0, on_ready=lambda url: print(url, flush=True))
print("closed in good order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_says_where_and_ends_in_good_order(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.read() == b"here"
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "closed in good order\n", "")


def test_a_port_that_is_taken_is_named() -> None:
    assert threading.current_thread() is threading.main_thread()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            run_app(lambda *_: None, host="127.0.0.1", port=port)  # type: ignore[arg-type,return-value]
