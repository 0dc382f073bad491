"""What ``serve deploy`` is given: replicas and their front as one Ray Serve application."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from cloud_service.replicas.balancer import BalancerPorts
from cloud_service.replicas.front import Front
from cloud_service.replicas.replica import CloudReplica, replica_config

FRONT: Final = "Front"
REPLICA: Final = "CloudReplica"
DRAIN_S: Final = 30.0  # a drain takes 25 s at most

_Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.*-]*):\d{1,5}$")]


class Arguments(BaseModel):
    """``args`` of the application, in ``deploy/ray/serve.yaml``."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    config: Path  # the service's TOML file, at the same path on every machine
    listen: _Address  # devices, mutual TLS
    backend_listen: _Address | None = None  # backends: TLS, API keys and tokens
    max_replicas: Annotated[int, Field(ge=1, le=1024)] = 64
    directory: Path | None = None  # of the front's files; None: under the temporary folder


def build(arguments: dict[str, Any]) -> Any:
    """Make the application; a wrong configuration is refused here, before anything is started.

    Raises:
        ValidationError: An argument is missing or wrong.
        CloudServiceError: The configuration cannot be served by several replicas.
    """
    asked = Arguments.model_validate(arguments)
    replica_config(asked.config)
    port = asked.listen.rpartition(":")[2]
    directory = asked.directory or Path(tempfile.gettempdir()) / f"tandem-front-{port}"
    # An empty `user_config` is still one: Ray Serve then calls `reconfigure`, in which both deployments start.
    replica = serve.deployment(
        CloudReplica,
        name=REPLICA,
        user_config={},
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
    )
    front = serve.deployment(
        Front,
        name=FRONT,
        num_replicas=1,
        user_config={},
        graceful_shutdown_timeout_s=5,
        logging_config={"enable_access_log": False},  # a line for each announcement
    )
    return front.bind(
        replica.bind(str(asked.config), FRONT),
        ports=BalancerPorts(devices=asked.listen, backends=asked.backend_listen),
        directory=str(directory),
        num_slots=asked.max_replicas,
    )
