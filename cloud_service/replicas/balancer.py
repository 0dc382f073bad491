"""HAProxy as a balancer of connections: its configuration, its process, and the words by which its servers change while it runs.

It passes TCP through and sees no plaintext: TLS ends in the replica, so that a device's certificate is bound to its calls there
as in a service of one process. A connection stays with its replica, which is the affinity that sessions profit from; a device
whose replica died connects again, and the next replica goes on from the shared state.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_service.config import split_address
from cloud_service.errors import CloudServiceError
from cloud_service.replicas.roster import Slot, SlotState

START_S: Final = 10.0
ANSWER_S: Final = 5.0
STOP_S: Final = 2.0
DEVICES: Final = "devices"
BACKENDS: Final = "backends"
# What HAProxy says when it has done as it was told; anything else is a refusal.
_FINE: Final = ("", "no need to change", "IP changed from", "port changed from", "health check")

_TEMPLATE: Final = """\
# Written by tandem's front; servers change over the socket, not here.
global
    stats socket {socket} mode 600 level admin
    hard-stop-after 30m

defaults
    mode tcp
    # Devices ping every 30 s and replicas every 60 s, so a longer silence is a dead link.
    timeout connect 2s
    timeout client 150s
    timeout server 150s
    timeout check 1s
    # A replica that cannot be reached costs one more attempt, at another one.
    retries 3
    option redispatch 1
"""
_PORT: Final = """
frontend in_{name}
    bind {listen}
    default_backend {name}

backend {name}
    balance leastconn
    default-server check inter 250ms fall 2 rise 1 on-marked-down shutdown-sessions
    server-template slot 1-{num_slots} 127.0.0.1:9 disabled
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerPorts:
    """Where the outside connects, ``host:port`` each."""

    devices: str
    backends: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The ports that are open, by the name of their servers' group."""
        ports = {DEVICES: self.devices}
        return ports if self.backends is None else {**ports, BACKENDS: self.backends}


def haproxy_configuration(ports: BalancerPorts, socket: Path, num_slots: int) -> str:
    """Write HAProxy's file; pure."""
    text = _TEMPLATE.format(socket=socket)
    for name, listen in ports.named.items():
        text += _PORT.format(name=name, listen=listen, num_slots=num_slots)
    return text


def slot_commands(group: str, number: int, slot: Slot) -> list[str]:
    """What is said to HAProxy so that a slot becomes what it is to be; pure."""
    server = f"set server {group}/slot{number}"
    if slot.state is SlotState.MAINT or slot.replica is None:
        return [f"{server} state maint"]
    address = slot.replica.devices if group == DEVICES else slot.replica.backends
    if address is None:
        return [f"{server} state maint"]
    host, port = split_address(address)
    health_host, health_port = split_address(slot.replica.health)
    return [
        f"{server} addr {host} port {port}",
        f"{server} check-addr {health_host} port {health_port}",
        f"{server} state {slot.state}",
    ]


class Balancer:
    """Owner of one HAProxy process. One event loop."""

    def __init__(
        self, program: Path, ports: BalancerPorts, *, directory: Path, num_slots: int
    ) -> None:
        """Say what to run; starts nothing.

        Args:
            program: HAProxy 2.8 or later.
            ports: Where to listen.
            directory: For its configuration and socket; the next front on this machine takes over from what it finds here.
            num_slots: How many replicas there may be.
        """
        self._program = program
        self._ports = ports
        self._directory = directory
        self._num_slots = num_slots
        self._process: asyncio.subprocess.Process | None = None
        self._applied: dict[tuple[str, int], Slot] = {}

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; one that an earlier front left behind ends when its connections have.

        Raises:
            CloudServiceError: It does not start.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:  # its name can be guessed
            raise CloudServiceError(
                f"{self._directory}: others may write there; remove it, or name another `directory`"
            )
        await self._stop_process()
        earlier = self._earlier_process()
        self._socket.unlink(missing_ok=True)
        text = haproxy_configuration(self._ports, self._socket, self._num_slots)
        self._file.write_text(text, encoding="utf-8")
        command = [str(self._program), "-db", "-q", "-f", str(self._file)]
        if earlier is not None:
            command += ["-sf", str(earlier)]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        self._pid_file.write_text(str(self._process.pid), encoding="ascii")
        self._applied.clear()
        end = asyncio.get_running_loop().time() + START_S
        while not await self._answers():
            if not self.is_running or asyncio.get_running_loop().time() > end:
                raise CloudServiceError(
                    f"HAProxy does not start on {self._ports.devices}; free the port, or choose another `listen`"
                )
            await asyncio.sleep(0.02)

    async def apply(self, slots: Mapping[int, Slot]) -> None:
        """Make the servers what they are to be; only what has changed is said.

        Raises:
            CloudServiceError: HAProxy does not answer, or refuses.
        """
        for group in self._ports.named:
            for number, slot in slots.items():
                known = self._applied.get((group, number), Slot(state=SlotState.MAINT))
                if known == slot:
                    continue
                for command in slot_commands(group, number, slot):
                    await self._say(command)
                self._applied[group, number] = slot

    async def close(self) -> None:
        """Stop the process; its connections are cut. Harmless when repeated."""
        await self._stop_process()

    @property
    def _socket(self) -> Path:
        return self._directory / "haproxy.sock"

    @property
    def _file(self) -> Path:
        return self._directory / "haproxy.cfg"

    @property
    def _pid_file(self) -> Path:
        return self._directory / "haproxy.pid"

    async def _answers(self) -> bool:
        # Its socket is there before its ports are, so the socket alone says nothing.
        try:
            return bool(await self._ask("show version"))
        except (OSError, TimeoutError):
            return False

    async def _ask(self, command: str) -> str:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
            try:
                writer.write(command.encode() + b"\n")
                await writer.drain()
                return (await reader.read()).decode("utf-8", "replace").strip()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _say(self, command: str) -> None:
        try:
            answer = await self._ask(command)
        except (OSError, TimeoutError) as error:
            raise CloudServiceError(
                f"HAProxy does not answer ({type(error).__name__}); it is started again"
            ) from error
        if answer and not answer.startswith(_FINE[1:]):
            raise CloudServiceError("HAProxy refuses a change of its servers; it is started again")

    async def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _earlier_process(self) -> int | None:
        """The process that an earlier front left behind, if it is one of ours."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._file) in command else None
