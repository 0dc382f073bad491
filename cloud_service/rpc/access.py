"""Lets callers in: who they are, whether their tenant and device may, and how much. Two guards of :mod:`cloud_service.rpc.interceptors`.

Somebody who is refused from now on is refused at the next call, and put out of a running one, :data:`REMEMBER_S` later at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from cloud_service.identity import Identity, identity_of
from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Answer, Call, Ending
from cloud_service.storage.state_store import StateStore
from cloud_service.tenancy.authority import serial_of
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.quotas import Meters
from cloud_service.tenancy.roles import OPEN, Role, may_call
from cloud_service.tenancy.tenants import Tenant, Tenants
from cloud_service.tenancy.tokens import TokenVerifier
from protos.errors import (
    PermissionDeniedError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
)

REMEMBER_S = 2.0  # how long a row is believed: a revocation takes this long
MAX_REMEMBERED = 4096  # devices
_BEARER = "Bearer "
_KEY_PREFIX = "tnd_"
# A device waits on the other services for hours, and the health service belongs to nobody.
_METERED = ("tandem.inference.", "tandem.feedback.")


@dataclass(slots=True)
class _KnownTenant:
    """A tenant's row, as it was a moment ago; shared by all its callers, so that they have one quota."""

    tenant: Tenant
    read_s: float


@dataclass(slots=True, eq=False)
class _Caller:
    """Somebody who was let in, and what is being answered to him."""

    known: _KnownTenant
    checked_s: float
    calls: set[Call] = field(default_factory=set)

    def is_fresh(self, now_s: float) -> bool:
        """Whether nothing needs to be looked up again."""
        return now_s - self.checked_s < REMEMBER_S and now_s - self.known.read_s < REMEMBER_S


class Access:
    """Knows tenants for a moment, and meters what they use. Event loop only."""

    def __init__(
        self,
        store: StateStore,
        tenants: Tenants,
        devices: Devices,
        tokens: TokenVerifier,
        metrics: Metrics,
        *,
        plaintext: Identity | None,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._devices = devices
        self._tokens = tokens
        self._metrics = metrics
        self._plaintext = plaintext  # who calls where there are no certificates
        self._known: dict[str, _KnownTenant] = {}
        self._callers: dict[
            tuple[Identity, str | None], _Caller
        ] = {}  # by identity and certificate
        self._meters = Meters()

    async def identified(self, call: Call, answer: Answer) -> Any:
        """Find out who calls, and refuse tenants and devices that may not."""
        if (call.service, call.method) in OPEN:
            return await answer(call)
        identity, role = await self._identity(call)
        if not may_call(role, call.service, call.method):
            raise PermissionDeniedError(
                f"callers of role {role} may not call this; use credentials of another role"
            )
        key = (identity, call.certificate_serial)
        caller = self._callers.get(key)
        if caller is None or not caller.is_fresh(time.monotonic()):
            caller = await self._look_up(*key)
        call.tenant, call.known_identity = caller.known.tenant, identity
        caller.calls.add(call)
        try:
            return await answer(call)
        finally:
            caller.calls.discard(call)

    async def metered(self, call: Call, answer: Answer) -> Any:
        """Hold the caller's tenant to its limits."""
        if not call.service.startswith(_METERED) or call.tenant is None:
            return await answer(call)
        meter = self._meters.of(call.tenant.name, call.tenant.quota)
        try:
            meter.admit(
                now_s=time.monotonic(),
                spent_micro_usd=call.tenant.spent_micro_usd,
                unix_s=time.time(),
            )
        except QuotaExceededError as error:
            self._metrics.quota_rejected.labels(call.tenant.name, error.quota).inc()
            raise
        call.meter = meter
        try:
            return await answer(call)
        finally:
            meter.leave()

    async def end_refused(self) -> None:
        """Put callers out of running calls whose tenant or device was revoked; until cancelled."""
        while True:
            await asyncio.sleep(REMEMBER_S)
            if not any(caller.calls for caller in self._callers.values()):
                continue
            with contextlib.suppress(UnavailableError):  # asked again in a moment
                tenants, devices = await self._store.run(
                    lambda connection: (
                        self._tenants.revoked(connection),
                        self._devices.revoked(connection),
                    )
                )
                for (identity, _), caller in self._callers.items():
                    if identity.tenant in tenants or identity in devices:
                        # Both are looked up at the next call.
                        caller.checked_s = caller.known.read_s = -REMEMBER_S
                        for call in caller.calls:
                            call.end(Ending.REVOKED)

    async def _look_up(self, identity: Identity, serial: str | None) -> _Caller:
        """Read what is not known any more of a caller.

        Raises:
            PermissionDeniedError: The tenant or the device may not call.
        """
        now_s, key = time.monotonic(), (identity, serial)
        known = self._known.get(identity.tenant)
        if known is None or now_s - known.read_s >= REMEMBER_S:
            tenant = await self._store.run(
                lambda connection: self._tenants.admitted(connection, identity.tenant)
            )
            known = self._known.setdefault(identity.tenant, _KnownTenant(tenant, now_s))
            known.tenant, known.read_s = tenant, now_s
        caller = self._callers.get(key)
        if caller is None or now_s - caller.checked_s >= REMEMBER_S:
            await self._store.run(
                lambda connection: self._devices.check(connection, identity, serial)
            )
            if key not in self._callers and len(self._callers) >= MAX_REMEMBERED:
                self._callers = {one: who for one, who in self._callers.items() if who.calls}
            caller = self._callers.setdefault(key, _Caller(known, now_s))
            caller.known, caller.checked_s = known, now_s
        return caller

    async def _identity(self, call: Call) -> tuple[Identity, Role]:
        shown_by_tls = call.context.auth_context()
        names = shown_by_tls.get("x509_subject_alternative_name", ())
        shown = _credential(call.context.invocation_metadata() or ())
        if not names:
            if shown is None:
                if self._plaintext is None:
                    raise UnauthenticatedError(
                        "this port wants an API key or a token in `authorization`; ask the operator for one"
                    )
                return self._plaintext, Role.DEVICE
            return await self._by_credential(shown)
        identity, call.certificate_serial = _read(
            tuple(names), next(iter(shown_by_tls["x509_pem_cert"]))
        )
        if shown is None:
            return identity, Role.DEVICE
        named, role = await self._by_credential(shown)
        if named != identity:
            self._metrics.identity_mismatch.inc()
            raise PermissionDeniedError(
                "token and certificate name different devices; show the token of this device"
            )
        return identity, role

    async def _by_credential(self, shown: str) -> tuple[Identity, Role]:
        if shown.startswith(_KEY_PREFIX):
            identity = await self._store.run(
                lambda connection: self._tenants.by_key(connection, shown)
            )
            return identity, Role.BACKEND
        return self._tokens.read(shown)


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _read(names: tuple[bytes, ...], certificate: bytes) -> tuple[Identity, str]:
    """Whom a certificate that TLS has verified names, and its serial number; the same for as long as it is shown."""
    return identity_of(names), serial_of(x509.load_pem_x509_certificate(certificate))


def _credential(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            return value.removeprefix(_BEARER)
    return None
