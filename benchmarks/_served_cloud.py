"""A cloud service as a process of its own, over mutual TLS, with several tenants; for the benchmarks of its load."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks._service_process import service_process
from cloud_service.identity import Identity
from cloud_service.tenancy import pki

TENANTS = ("polite", "flood")


def device_credentials(root: Path, device: Identity) -> grpc.ChannelCredentials:
    """Of a device whose certificate ``pki`` made in a folder."""
    folder = pki.CertificateFolder(root)
    pair = folder.device(device)
    return grpc.ssl_channel_credentials(
        folder.authority.certificate.read_bytes(),
        pair.key.read_bytes(),
        pair.certificate.read_bytes(),
    )


@dataclass(frozen=True)
class ServedCloud:
    """A service that is ready."""

    root: Path
    address: str
    metrics: str
    pid: int

    def credentials(self, tenant: str) -> grpc.ChannelCredentials:
        """Of the device of a tenant."""
        return device_credentials(self.root, Identity(tenant=tenant, device="device-1"))

    def metric(self, name: str) -> float:
        """The sum over all labels of one sample, as Prometheus reads it now."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as page:
            text = page.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )


@contextmanager
def served_cloud(model: str, *, sections: str = "") -> Iterator[ServedCloud]:
    """Start one; end it with the block.

    Args:
        model: A name of the model store, or a path.
        sections: More of cloud.toml.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pki.create_authority(root)
        for tenant in TENANTS:
            pki.issue_device(root, Identity(tenant=tenant, device="device-1"))
        own = (
            f"[model]\nthreads = 1\n[tenants]\nadmitted = {list(TENANTS)}\n"
            "[tenants.default_quota]\nrequests_per_s = 0\nconcurrent_calls = 0\n"
        )
        with service_process(root, model, own + sections) as service:
            yield ServedCloud(root, service.address, service.metrics, service.pid)
