"""The part of an agent that delivers its outbox to a real cloud; light, so that a process of its own starts fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.cloud.circuit_breaker import BreakerLimits, CircuitBreaker
from edge_agent.cloud.client import CloudClient, TlsFiles
from edge_agent.cloud.cloud import WireIds
from edge_agent.flow import Entity, Request
from edge_agent.keystore import KeyStore
from edge_agent.outbox.delivery import Delivery, DeliverySettings
from edge_agent.outbox.outbox import Outbox
from edge_agent.vault import Vault
from tests.simulators import CHAT, make_anonymized

NEVER_OPEN = BreakerLimits(num_failures=10_000, window_calls=10_000)  # a restart takes seconds here
FAST = DeliverySettings(first_pause_s=0.05, max_pause_s=0.2, idle_pause_s=0.1, max_attempts=1000)


@contextmanager
def device(
    folder: Path, address: str, tls: tuple[str, str, str]
) -> Iterator[tuple[Delivery, Outbox]]:
    """The part of an agent that delivers."""
    keys = KeyStore.open(folder / "device.key")
    wire_ids = WireIds(keys.derive("wire-ids"))
    files = TlsFiles(ca=Path(tls[0]), certificate=Path(tls[1]), key=Path(tls[2]))
    cloud = CloudClient(
        address, wire_ids=wire_ids, credentials=files, breaker=CircuitBreaker(NEVER_OPEN)
    )
    outbox = Outbox(folder / "outbox.db", keys=keys, wire_ids=wire_ids)
    delivery = Delivery(outbox, cloud, settings=FAST)
    try:
        yield delivery, outbox
    finally:
        delivery.close()
        cloud.close()


def put(delivery: Delivery, request_id: str) -> None:
    vault = Vault()
    vault.put("[PERSON_1]", Entity.PERSON, f"Fictitious of {request_id}")
    anonymized = make_anonymized(f"[PERSON_1] {request_id}", request_id=request_id)
    request = Request(id=request_id, task="assistant", text=request_id, max_output_tokens=4)
    delivery.put(anonymized, vault, request, CHAT)
