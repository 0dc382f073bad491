"""Cloud services for tests: in this process or as one of their own, always over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cloud_service.backends.choice import make_backend
from cloud_service.config import CloudConfig, load_config
from cloud_service.identity import Identity
from cloud_service.server import CloudServer, Endpoints, running_server
from cloud_service.tenancy import pki
from protos.feedback.v1 import feedback_pb2_grpc
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.request_id import new_request_id

SCANNER = Identity(tenant="clinic", device="scanner-1")
OTHER = Identity(tenant="rival", device="scanner-1")
START_S = 60.0


@dataclass(frozen=True)
class Site:
    """A folder with certificates, configuration and state of one service, and the model it serves."""

    root: Path
    model: Path

    @classmethod
    def make(cls, root: Path, model: Path) -> Site:
        pki.create_authority(root)
        for identity in (SCANNER, OTHER):
            pki.issue_device(root, identity)
        return cls(root, model)

    def config(self, **sections: Any) -> CloudConfig:
        folder = pki.CertificateFolder(self.root)
        flags: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "metrics_listen": None,  # its thread takes half a second to end
            "tls": {
                "certificate": str(folder.server.certificate),
                "key": str(folder.server.key),
                "client_authority": str(folder.authority.certificate),
            },
            "model": {
                "name": str(self.model),
                "dtype": "float32",
                "threads": 1,
                "cache_dir": str(self.root / "cache"),
            },
            "engine": {"kv_mib": 64},
            "state": {"directory": str(self.root / "state")},
            "drain": {"balancer_s": 0.0, "finish_s": 5.0},
            "tenants": {"admitted": [SCANNER.tenant, OTHER.tenant]},
        }
        for name, values in sections.items():
            flags[name] = {**flags.get(name, {}), **values} if isinstance(values, dict) else values
        return load_config(None, flags=flags, environment={})

    def credentials(self, identity: Identity | None = SCANNER) -> grpc.ChannelCredentials:
        folder = pki.CertificateFolder(self.root)
        authority = folder.authority.certificate.read_bytes()
        if identity is None:
            return grpc.ssl_channel_credentials(authority)
        pair = folder.device(identity)
        return grpc.ssl_channel_credentials(
            authority, pair.key.read_bytes(), pair.certificate.read_bytes()
        )


class Client:
    """Asynchronous stubs of one identity."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)

    async def generate(
        self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = 30
    ) -> list[inference_pb2.GenerateResponse]:
        call = self.inference.Generate(request, timeout=timeout_s)
        try:
            return [event async for event in call]
        finally:
            call.cancel()


@dataclass(frozen=True)
class RunningCloud:
    """A service in this process."""

    server: CloudServer
    endpoints: Endpoints
    site: Site

    @contextlib.asynccontextmanager
    async def client(self, identity: Identity | None = SCANNER) -> AsyncIterator[Client]:
        credentials = self.site.credentials(identity)
        async with grpc.aio.secure_channel(self.endpoints.address, credentials) as channel:
            yield Client(channel)


@contextlib.asynccontextmanager
async def running_cloud(site: Site, **sections: Any) -> AsyncIterator[RunningCloud]:
    config = site.config(**sections)
    async with running_server(config, make_backend=make_backend) as (
        server,
        endpoints,
    ):
        yield RunningCloud(server, endpoints, site)


class CloudProcess:
    """A service in a process of its own, started by the console script's module."""

    def __init__(self, site: Site, *arguments: str, **environment: str) -> None:
        self._site = site
        config = site.root / "cloud.toml"
        if not config.exists():
            config.write_text(
                "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
                "[tenants]\nadmitted = ['clinic', 'rival']\n[drain]\nbalancer_s = 0.0\nfinish_s = 1.0\n"
                "[engine]\nkv_mib = 64\n[model]\ndtype = 'float32'\nthreads = 1\n[state]\ndirectory = 'state'\n"
            )
        command = [
            sys.executable,
            "-c",
            "import sys; from cloud_service.cli import main; sys.exit(main())",
        ]
        command += ["serve", "--config", str(config), "--listen", "127.0.0.1:0"]
        command += ["--model", str(site.model), *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"no ready line; stderr: {self.process.communicate()[1]}")
        self.ready = json.loads(line)

    @contextlib.contextmanager
    def channel(self, identity: Identity = SCANNER) -> Iterator[grpc.Channel]:
        with grpc.secure_channel(
            self.ready["address"], self._site.credentials(identity)
        ) as channel:
            yield channel

    def stop(
        self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 25.0
    ) -> tuple[int, str]:
        """Send a signal; returns exit code and what was logged."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, log


@contextlib.contextmanager
def cloud_process(site: Site, *arguments: str, **environment: str) -> Iterator[CloudProcess]:
    cloud = CloudProcess(site, *arguments, **environment)
    try:
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.process.kill()
            cloud.process.communicate()


def ask(text: str = "Is the heart enlarged?", **fields: Any) -> inference_pb2.GenerateRequest:
    """Make a valid request; fields replace its own."""
    values: dict[str, Any] = {
        "request_id": new_request_id(),
        "messages": [inference_pb2.Message(role=inference_pb2.ROLE_USER, text=text)],
        "max_output_tokens": 12,
        **fields,
    }
    return inference_pb2.GenerateRequest(**values)


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    """Poll a condition that another thread makes true."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.01)
