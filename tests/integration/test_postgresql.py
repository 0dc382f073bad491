"""The state database on a real PostgreSQL: the same laws as on SQLite, and what only replicas can do to each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from cloud_service.config import load_config
from cloud_service.identity import Identity
from cloud_service.rpc.feedback import read_outcomes, store_outcomes
from cloud_service.storage.dedupe import Attempt, Dedupe, RequestKey
from cloud_service.storage.envelope import Envelope
from cloud_service.storage.state_store import (
    METADATA,
    USAGE_DAYS,
    StateStore,
    open_state,
)
from cloud_service.tenancy.authority import DeviceAuthority
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.pki import CertificateFolder, create_authority
from cloud_service.tenancy.quotas import Quota
from cloud_service.tenancy.tenants import make_tenants
from protos.errors import InProgressError, UnauthenticatedError, UnavailableError
from tests.postgres_server import empty, postgres_server
from tests.properties.test_dedupe import DedupeMachine

T = TypeVar("T")
KEY = b"k" * 32
WHO = Identity("clinic", "scanner-1")
REQUEST = RequestKey(identity=WHO, request_id="id-1", method="Generate", payload_sha256=b"x" * 32)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture
def url(server: str) -> str:
    empty(server)
    return server


@pytest.fixture
def store(url: str) -> Iterator[StateStore]:
    with closing(StateStore(url)) as opened:
        yield opened


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """Run in so many threads that begin together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        barrier.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_replicas_that_start_together_make_the_tables_once(url: str) -> None:
    stores = at_once(6, lambda _: StateStore(url))
    try:
        names = sa.inspect(stores[0]._engine).get_table_names()
        assert set(METADATA.tables) <= set(names)
        assert not stores[0].is_sqlite
    finally:
        for opened in stores:
            opened.close()


def test_requests_take_effect_once(server: str) -> None:
    class OnPostgreSQL(DedupeMachine):
        def __init__(self) -> None:
            super().__init__()
            empty(server)

        def open_store(self) -> AbstractContextManager[StateStore]:
            return open_state(server, Path(self.folder.name))

    run_state_machine_as_test(
        OnPostgreSQL,
        settings=settings(max_examples=8, stateful_step_count=20, deadline=None),
    )


def test_of_many_replicas_one_answers_a_request(url: str) -> None:
    stores = [StateStore(url) for _ in range(4)]
    dedupes = [Dedupe(opened, Envelope(KEY)) for opened in stores]

    def begin(number: int) -> object:
        try:
            return stores[number].run_here(
                lambda connection: dedupes[number].begin(
                    connection, REQUEST, now=100.0, lease_s=10.0, ttl_s=100.0
                )
            )
        except InProgressError as error:
            return error

    outcomes = at_once(4, begin)
    for opened in stores:
        opened.close()
    assert sum(isinstance(outcome, Attempt) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, InProgressError) for outcome in outcomes) == 3


def test_a_tenants_first_key_is_one_key(url: str) -> None:
    stores = [StateStore(url) for _ in range(4)]
    sealed = at_once(
        4,
        lambda n: stores[n].run_here(lambda c: Envelope(KEY).seal(c, "clinic", "p", b"plain")),
    )
    fresh = Envelope(KEY)
    for value in sealed:
        assert stores[0].run_here(lambda c, v=value: fresh.open(c, "clinic", "p", v)) == b"plain"
    for opened in stores:
        opened.close()


def test_bills_add_up(url: str, tmp_path: Path) -> None:
    stores = [StateStore(url) for _ in range(4)]
    flags = {"tls": {"insecure_loopback": True}, "state": {"directory": str(tmp_path)}}
    config = load_config(None, flags=flags, environment={})
    registers = [make_tenants(opened, KEY, config) for opened in stores]
    stores[0].run_here(lambda c: registers[0].add(c, "clinic", Quota()))

    def bill(number: int) -> None:
        for _ in range(25):
            stores[number].run_here(lambda c: registers[number].bill(c, "clinic", 3))

    at_once(4, bill)
    billed = stores[0].run_here(lambda c: c.scalar(sa.select(USAGE_DAYS.c.micro_usd)))
    (row,) = stores[1].run_here(registers[1].list)
    for opened in stores:
        opened.close()
    assert billed == 4 * 25 * 3 == row.tenant.spent_micro_usd


def test_outcomes_are_read_back_in_their_order(store: StateStore) -> None:
    envelope = Envelope(KEY)
    for at, request_id in enumerate(("r-1", "r-2")):
        outcomes = [("triage", f"{request_id} {number}".encode()) for number in range(3)]
        store.run_here(
            lambda c, r=request_id, o=outcomes, n=at: store_outcomes(
                c, envelope, WHO, r, o, now=float(n)
            )
        )
    read = store.run_here(lambda c: read_outcomes(c, Envelope(KEY), "clinic", "triage"))
    assert [text.decode() for text in read] == [f"r-{n} {m}" for n in (1, 2) for m in range(3)]
    assert store.run_here(lambda c: read_outcomes(c, envelope, "rival", "triage")) == []


async def test_a_database_that_is_gone_is_unavailable_and_comes_back(
    store: StateStore,
) -> None:
    def ended(connection: sa.Connection) -> None:
        own = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
        connection.execute(sa.text(f"SELECT pg_terminate_backend({own})"))

    with pytest.raises(UnavailableError) as caught:
        await store.run(ended)
    assert caught.value.retry_after_s
    assert "SELECT" not in str(caught.value)
    assert await store.run(lambda c: c.execute(sa.text("SELECT 1")).scalar()) == 1
    assert time.time() > 0


def test_one_enrolment_code_makes_one_device_of_eight_that_show_it_at_once(
    store: StateStore, tmp_path: Path
) -> None:
    """Eight thieves on eight replicas; whoever is second is told that the code is not valid."""
    create_authority(tmp_path)
    pair = CertificateFolder(tmp_path).authority
    authority = DeviceAuthority(pair.certificate, pair.key, trusted=pair.certificate)
    flags = {"state": {"directory": str(tmp_path)}, "tls": {"insecure_loopback": True}}
    config = load_config(None, flags={**flags, "tenants": {"admitted": ["clinic"]}}, environment={})
    devices = Devices(store, make_tenants(store, KEY, config), KEY)
    now = time.time()
    code = store.run_here(
        lambda connection: devices.add_code(
            connection, WHO, pair.certificate.read_bytes(), lifetime_s=60, now=now
        )
    ).text

    def show(number: int) -> bool:
        def work(connection: sa.Connection) -> object:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
            return devices.enrol(
                connection,
                code,
                str(number).encode(),
                lambda identity: authority.certify(key, identity, days=1),
                now=now,
            )

        try:
            store.run_here(work)
        except UnauthenticatedError:
            return False
        return True

    assert at_once(8, show).count(True) == 1
    (device,) = store.run_here(lambda connection: devices.list(connection, WHO.tenant))
    assert device.is_active
