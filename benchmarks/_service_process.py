"""`cloud-service serve` as a process of its own, with one thread for its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProcess:
    """A service that is ready."""

    address: str
    metrics: str
    pid: int


@contextmanager
def service_process(root: Path, model: str, sections: str) -> Iterator[ServiceProcess]:
    """Start one; end it with the block.

    Args:
        root: Folder of the certificates that ``pki`` made; the configuration and the state go there too.
        model: A name of the model store, or a path.
        sections: Of cloud.toml, all but ``[tls]`` and ``[state]``.
    """
    config = root / "cloud.toml"
    config.write_text(
        "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
        f"[state]\ndirectory = 'state'\n{sections}"
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from cloud_service.cli import main; sys.exit(main())",
    ]
    command += ["serve", "--config", str(config), "--listen", "127.0.0.1:0", "--model", model]
    process = subprocess.Popen(  # noqa: S603  # our own module
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield ServiceProcess(
            address=str(ready["address"]), metrics=str(ready["metrics"]), pid=process.pid
        )
    finally:
        process.terminate()
        process.communicate(timeout=300)  # a machine may be busy with others
