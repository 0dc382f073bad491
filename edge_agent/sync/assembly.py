"""Puts a sync client together from the device's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError
from edge_agent.sync.client import SyncClient, SyncSettings
from edge_agent.sync.device_name import LOOPBACK, device_id_of
from edge_agent.sync.download import Pace
from edge_agent.sync.process_gate import ProcessGate
from edge_agent.sync.running import sync_folder

if TYPE_CHECKING:
    from edge_agent.cloud.sync_client import GrpcSyncTransport
    from edge_agent.config import EdgeConfig
    from edge_agent.metrics import Metrics


@contextmanager
def open_client(
    config: EdgeConfig,
    *,
    metrics: Metrics | None = None,
    progress: Callable[[int], None] = lambda _: None,
    expect: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[SyncClient, GrpcSyncTransport]]:
    """Open the client of a device and its way to the cloud; both are closed at the end.

    Raises:
        ConfigError: A setting is missing or wrong.
        SyncFolderError: The folder cannot be used.
        ModelStoreError: The device's own model is unknown.
    """
    settings, root = _settings(config), _root(config)
    transport = open_transport(config, metrics)
    factory = _factory_model(config)
    try:
        rate = config.sync.max_kilobytes_per_s
        client = SyncClient(
            sync_folder(config),
            settings,
            root=root,
            transport=transport,
            gate=ProcessGate(
                factory_model=factory[1],
                threads=config.model.threads,
                context_tokens=config.model.context_tokens,
                max_memory_mb=config.model.max_memory_mb,
                cache=config.cache_folder / "stages",
                store=config.cache_folder,
                languages=config.anonymizer.languages,
            ),
            factory_files={factory[0]: factory[1]} if factory[0] else {},
            pace=Pace(max_bytes_per_s=1000 * rate) if rate else None,
            progress=progress,
            expect=expect,
        )
        try:
            yield client, transport
        finally:
            client.close()
    finally:
        transport.close()


def _settings(config: EdgeConfig) -> SyncSettings:
    sync = config.sync
    if not sync.channel:
        raise ConfigError("this device follows no channel; set `channel` and `root` in [sync]")
    device_id = sync.device_id
    if not device_id:
        certificate = config.cloud.certificate
        device_id = LOOPBACK if certificate is None else device_id_of(certificate)
    return SyncSettings(
        channel=sync.channel,
        device_id=device_id,
        runtime=version("tandem-llm"),
        hardware_class=sync.hardware_class,
        soak_s=sync.soak_s,
        min_answers=sync.min_answers,
    )


def _root(config: EdgeConfig) -> bytes:
    path = config.sync.root
    if path is None:
        raise ConfigError(
            "this device trusts no publisher; set `root` in [sync] to the first root.json"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); set `root` in [sync] to the publisher's first root.json"
        ) from error


def open_transport(config: EdgeConfig, metrics: Metrics | None = None) -> GrpcSyncTransport:
    """Make the way to the cloud; close it.

    Raises:
        ConfigError: A setting is missing or wrong.
    """
    from edge_agent.cloud.channel import TlsFiles
    from edge_agent.cloud.sync_client import GrpcSyncTransport

    cloud = config.cloud
    credentials = None
    if not cloud.insecure_loopback and cloud.ca and cloud.certificate and cloud.key:
        credentials = TlsFiles(ca=cloud.ca, certificate=cloud.certificate, key=cloud.key)
    return GrpcSyncTransport(
        cloud.target,
        credentials=credentials,
        insecure_loopback=cloud.insecure_loopback,
        metrics=metrics,
    )


def _factory_model(config: EdgeConfig) -> tuple[str, Path]:
    """Return digest and place of the model that the device was made with; no digest where it is no model of the store."""
    from partition.store.model_store import ModelStore

    path = Path(config.model.name)
    if path.suffix == ".gguf" or path.is_dir():
        return "", path
    store = ModelStore(config.cache_folder, offline=config.offline)
    return store.entry(config.model.name).sha256, store.get(config.model.name)
