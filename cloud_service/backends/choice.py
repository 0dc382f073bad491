"""Makes the backend that the configuration names."""

from __future__ import annotations

from cloud_service.backends.backend import Backend
from cloud_service.config import CloudConfig
from cloud_service.metrics import Metrics


async def make_backend(config: CloudConfig, metrics: Metrics) -> Backend:
    """Start our own engine, or reach another server; the libraries of the other one are not imported.

    Raises:
        CloudServiceError: The model cannot be served.
        PartitionError: Its files cannot be had, or are damaged.
    """
    if config.backend == "openai":
        from cloud_service.backends.openai_backend import make_openai_backend

        return await make_openai_backend(config, metrics)
    from cloud_service.backends.transformers_backend import make_transformers_backend

    return await make_transformers_backend(config, metrics)
