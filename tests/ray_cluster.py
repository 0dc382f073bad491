"""The shipped Ray Serve application on a Ray cluster of this machine, driven from a process of its own.

Run as a module it is that process: it deploys, prints one JSON line, and then answers each line of its standard input
(``replicas``, ``leave one``) with one more. It ends, and with it the cluster, when its standard input does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.model_servers import free_port

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "deploy/ray/serve.yaml"
START_S = 600.0  # of processes that import PyTorch on a busy machine


@dataclass
class RayCluster:
    """A running application."""

    process: subprocess.Popen[str]
    address: str
    log: Path  # what all its processes say

    def replicas(self) -> list[dict[str, Any]]:
        """What the front says: address and process of each replica that gets connections."""
        assert self.process.stdin is not None
        self.process.stdin.write("replicas\n")
        self.process.stdin.flush()
        found: list[dict[str, Any]] = _next_document(self.process)
        return found

    def leave_one(self) -> None:
        """Want one replica only, from now on: another one is drained."""
        assert self.process.stdin is not None
        self.process.stdin.write("leave one\n")
        self.process.stdin.flush()
        _next_document(self.process)


@contextlib.contextmanager
def ray_cluster(config: Path, *, least: int = 2, most: int = 2) -> Iterator[RayCluster]:
    """Start it with so many replicas, scaled without delay; skips where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray here; install the extra `ray`")
    address = f"127.0.0.1:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="tandem-ray-"))  # short: Ray makes sockets in it
    application = shipped_application(config, address, folder / "front", least, most)
    (folder / "serve.json").write_text(json.dumps(application))
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ray_cluster", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=ROOT,
        # A token of its own: Ray would write one into the home folder.
        env={**os.environ, **_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)},
    )
    try:
        if not _next_document(process):
            raise AssertionError(f"no cluster; {(folder / 'log').read_text()[-3000:]}")
        yield RayCluster(process, address, folder / "log")
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def shipped_application(
    config: Path, address: str, directory: Path, least: int, most: int
) -> dict[str, Any]:
    """``deploy/ray/serve.yaml`` with this machine's paths, ports and size."""
    document: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    (application,) = document["applications"]
    application["args"] |= {
        "config": str(config),
        "listen": address,
        "max_replicas": 2 * most,
        "directory": str(directory),
    }
    by_name = {deployment["name"]: deployment for deployment in application["deployments"]}
    by_name["CloudReplica"]["ray_actor_options"] = {"num_cpus": 0.5}
    by_name["CloudReplica"]["graceful_shutdown_timeout_s"] = 10
    by_name["CloudReplica"]["autoscaling_config"] |= {
        "min_replicas": least,
        "max_replicas": most,
        "upscale_delay_s": 0.5,
        "look_back_period_s": 2,
    }
    return document


def _with_one_replica(document: dict[str, Any]) -> dict[str, Any]:
    (application,) = document["applications"]
    by_name = {deployment["name"]: deployment for deployment in application["deployments"]}
    by_name["CloudReplica"]["autoscaling_config"] |= {
        "min_replicas": 1,
        "max_replicas": 1,
        "downscale_delay_s": 0,
    }
    return document


def _next_document(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    return json.loads(line) if line else None


def _drive(folder: Path) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray repeats its workers' words on the latter

    import ray
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=80 << 20,
        _temp_dir=str(folder / "r"),
        logging_level="warning",
        log_to_driver=True,
    )
    try:
        document = json.loads((folder / "serve.json").read_text())
        schema = ServeDeploySchema.model_validate(document)
        client = serve_start(proxy_location=schema.proxy_location)
        client.deploy_apps(schema)
        _wait_until_running()
        front = serve.get_deployment_handle("Front", "tandem")

        def replicas() -> list[dict[str, Any]]:
            found = front.replicas.remote().result(timeout_s=30)
            return [{"address": one.devices, "pid": one.process_id} for one in found]

        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            if line == "leave one\n":
                client.deploy_apps(ServeDeploySchema.model_validate(_with_one_replica(document)))
            print(json.dumps(replicas()), file=answers, flush=True)
        serve.shutdown()
    finally:
        ray.shutdown()


def _wait_until_running() -> None:
    from ray import serve

    end_s = time.monotonic() + START_S
    while serve.status().applications["tandem"].status != "RUNNING":
        if time.monotonic() > end_s:
            raise TimeoutError("the application does not come up")
        time.sleep(0.2)


_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_worker_niceness": "0",  # by default 15: last in line on a machine that has other work
}

if __name__ == "__main__":
    _drive(Path(sys.argv[1]))
