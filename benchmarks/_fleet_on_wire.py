"""One rollout to many whole sync clients, over mutual TLS, against a real `cloud-service serve` in a process of its own.

Every device has a certificate, a journal and a folder of releases; what is simulated is its model, and that one device in
five finds the new release worse.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_service.fleet.channels import set_channel
from cloud_service.fleet.fleet import Fleet, RolloutState
from cloud_service.fleet.rollout import Policy
from cloud_service.identity import Identity
from cloud_service.releases.repository import ReleaseRepository
from cloud_service.storage.state_store import StateStore
from cloud_service.tenancy import pki
from edge_agent.cloud.channel import TlsFiles
from edge_agent.cloud.sync_client import GrpcSyncTransport
from edge_agent.sync.client import CycleResult, SyncClient, SyncSettings
from edge_agent.sync.gate import GateVerdict
from partition.release.desired import choose_release
from partition.release.manifest import Manifest

START_S = 180.0
LOOK_EVERY_S = 1.0
TENANT = "clinic"


@dataclass(frozen=True)
class WireResult:
    """How the rollout ended."""

    num_devices: int
    num_tried: int
    num_failed: int
    num_left: int  # on the new release, after everybody came once more
    reason: str
    refresh_bytes: int  # of metadata, where nothing is new
    cycles_per_s: float


class _Gate:
    """One device in five finds the new release worse, always the same."""

    def __init__(self, device: str, bad: str) -> None:
        self._is_worse = hashlib.sha256(device.encode()).digest()[0] % 5 == 0
        self._bad = bad

    def check(self, folder: Path, manifest: Manifest, baseline_p95_ms: float) -> GateVerdict:
        failed = self._is_worse and manifest.release == self._bad
        return GateVerdict(passed=not failed, reason="it is worse here" if failed else "")

    def check_canaries(self, folder: Path) -> GateVerdict:
        return GateVerdict(passed=True)


class _Devices:
    """Every device of the fleet; one comes at a time, with a connection of its own."""

    def __init__(self, folder: Path, root: bytes, target: str, channel: str, bad: str) -> None:
        self._folder, self._root, self._target = folder, root, target
        self._channel, self._bad = channel, bad
        self._certificates = pki.CertificateFolder(folder / "pki")
        self.num_cycles = 0
        self.metadata_bytes = 0

    def come(self, device: str) -> CycleResult:
        """Run one cycle of a device, with its trial to the end."""
        pair = self._certificates.device(Identity(tenant=TENANT, device=device))
        transport = _Counting(
            self._target,
            credentials=TlsFiles(
                ca=self._certificates.authority.certificate,
                certificate=pair.certificate,
                key=pair.key,
            ),
        )
        client = SyncClient(
            self._folder / "devices" / device,
            SyncSettings(
                channel=self._channel,
                device_id=f"{TENANT}/{device}",
                runtime="0.1.0",
                soak_s=0.0,
                min_answers=0,
                check_after_s=(),
            ),
            root=self._root,
            transport=transport,
            gate=_Gate(device, self._bad),
        )
        try:
            result = client.run_cycle()
            client.observe(seconds=1.0, answers=1)
            self.num_cycles += 1
            self.metadata_bytes = transport.metadata_bytes
            return result
        finally:
            client.close()
            transport.close()


class _Counting(GrpcSyncTransport):
    """Counts the metadata it fetched."""

    metadata_bytes = 0

    def get_metadata(self, name: str) -> bytes:
        data = super().get_metadata(name)
        self.metadata_bytes += len(data)
        return data


def roll_out_on_wire(
    folder: Path,
    repository: ReleaseRepository,
    store: StateStore,
    *,
    online: Path,
    channel: str,
    release: str,
    num_devices: int,
) -> WireResult:
    """Have a whole fleet follow a rollout of ``release``, which a fifth of it finds worse."""
    set_channel(repository.folder, channel, (TENANT,))
    names = [f"ct-{number}" for number in range(num_devices)]
    pki.create_authority(folder / "pki")
    for name in names:
        pki.issue_device(folder / "pki", Identity(tenant=TENANT, device=name))
    root = repository.read("1.root.json")
    assert root is not None
    (folder / "devices").mkdir()
    fleet = Fleet(repository)
    with _serving(folder, repository.folder, online) as target:
        devices = _Devices(folder, root, target, channel, release)
        began = time.monotonic()
        base = {name: devices.come(name).running for name in names}[names[0]]
        cycles_per_s = num_devices / (time.monotonic() - began)
        devices.come(names[0])
        refresh_bytes = devices.metadata_bytes
        policy = Policy(soak_s=0.0)
        store.run_here(lambda tx: fleet.begin(tx, channel, release, policy, actor="benchmark"))
        tried: dict[str, bool] = {}  # whether it failed
        running: set[str] = set()
        while True:
            rollout = store.run_here(lambda tx: fleet.rollout(tx, channel))
            assert rollout is not None
            if rollout.state is not RolloutState.RUNNING:
                break
            desired = repository.desired(channel)
            assert desired is not None
            fresh = [
                name
                for name in names
                if name not in tried and choose_release(desired, f"{TENANT}/{name}") == release
            ]
            for name in fresh[:10]:  # ten come, then the service looks
                result = devices.come(name)
                tried[name] = result.running != release
                if result.running == release:
                    running.add(name)
            time.sleep(1.5 * LOOK_EVERY_S)
        ended = {name: devices.come(name).running for name in names}
    return WireResult(
        num_devices=num_devices,
        num_tried=len(tried),
        num_failed=sum(tried.values()),
        num_left=sum(name != base for name in ended.values()),
        reason=rollout.reason,
        refresh_bytes=refresh_bytes,
        cycles_per_s=cycles_per_s,
    )


@contextlib.contextmanager
def _serving(folder: Path, repository: Path, online: Path) -> Iterator[str]:
    """Run the service; yields where it listens."""
    certificates = pki.CertificateFolder(folder / "pki")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "cloud.toml"
    config.write_text(
        f'listen = "127.0.0.1:{port}"\n'
        f'[tls]\ncertificate = "{certificates.server.certificate}"\nkey = "{certificates.server.key}"\n'
        f'client_authority = "{certificates.authority.certificate}"\n'
        '[model]\nname = "smollm2-135m-instruct"\nthreads = 1\n[engine]\nkv_mib = 64\n'
        f'[state]\ndirectory = "{folder / "state"}"\n'
        f'[tenants]\nadmitted = ["{TENANT}"]\n'
        f'[releases]\ndirectory = "{repository}"\nonline_keys = "{online}"\n'
        f"look_every_s = {LOOK_EVERY_S}\n"
    )
    log = (folder / "service.log").open("wb")
    process = subprocess.Popen(  # noqa: S603 - our own program, no shell
        [Path(sys.executable).with_name("cloud-service"), "serve", "--config", config],
        stdout=log,
        stderr=log,
    )
    try:
        _wait_for(port, process, folder / "service.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)
        log.close()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")
