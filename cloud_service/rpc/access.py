"""Lets callers in: who they are, whether their tenant and device may, and how much. Two guards of :mod:`cloud_service.rpc.interceptors`.

Somebody who is refused from now on is refused at the next call, and put out of a running one, :data:`REMEMBER_S` later at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterable

from cryptography import x509

from cloud_service.identity import Identity, identity_of
from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Call
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
        self._known: dict[str, tuple[Tenant, float]] = {}
        self._known_devices: dict[tuple[Identity, str | None], float] = {}
        self._running: dict[Identity, set[asyncio.Timeout]] = {}
        self._meters = Meters()

    @contextlib.asynccontextmanager
    async def identified(self, call: Call) -> AsyncIterator[None]:
        """Find out who calls, and refuse tenants and devices that may not."""
        if (call.service, call.method) in OPEN:
            yield
            return
        identity, role = await self._identity(call)
        if not may_call(role, call.service, call.method):
            raise PermissionDeniedError(
                f"callers of role {role} may not call this; use credentials of another role"
            )
        call.tenant = await self._tenant(identity.tenant)
        await self._check_device(identity, call.certificate_serial)
        call.known_identity = identity
        async with self._until_refused(identity):
            yield

    @contextlib.asynccontextmanager
    async def metered(self, call: Call) -> AsyncIterator[None]:
        """Hold the caller's tenant to its limits."""
        if not call.service.startswith(_METERED) or call.tenant is None:
            yield
            return
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
            yield
        finally:
            meter.leave()

    async def end_refused(self) -> None:
        """Put callers out of running calls whose tenant or device was revoked; until cancelled."""
        while True:
            await asyncio.sleep(REMEMBER_S)
            if not self._running:
                continue
            with contextlib.suppress(UnavailableError):  # asked again in a moment
                tenants, devices = await self._store.run(
                    lambda connection: (
                        self._tenants.revoked(connection),
                        self._devices.revoked(connection),
                    )
                )
                for key in [*self._known_devices]:
                    if key[0].tenant in tenants or key[0] in devices:
                        del self._known_devices[key]
                for tenant in tenants & self._known.keys():
                    del self._known[tenant]
                for identity, scopes in self._running.items():
                    if identity.tenant in tenants or identity in devices:
                        for scope in scopes:
                            if not scope.expired():
                                scope.reschedule(0.0)

    @contextlib.asynccontextmanager
    async def _until_refused(self, identity: Identity) -> AsyncIterator[None]:
        scopes = self._running.setdefault(identity, set())
        scope = asyncio.timeout(None)
        try:
            async with scope:
                scopes.add(scope)
                try:
                    yield
                finally:
                    scopes.discard(scope)
                    if not scopes:
                        self._running.pop(identity, None)
        except TimeoutError:
            if not scope.expired():
                raise
            raise PermissionDeniedError(
                "this caller was revoked while it was being answered; ask the operator"
            ) from None

    async def _check_device(self, identity: Identity, serial: str | None) -> None:
        key, now_s = (identity, serial), time.monotonic()
        if now_s - self._known_devices.get(key, -REMEMBER_S) < REMEMBER_S:
            return
        await self._store.run(lambda connection: self._devices.check(connection, identity, serial))
        if len(self._known_devices) >= MAX_REMEMBERED:
            self._known_devices.clear()
        self._known_devices[key] = now_s

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
        identity = identity_of(names)
        call.certificate_serial = _serial(next(iter(shown_by_tls["x509_pem_cert"])))
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

    async def _tenant(self, name: str) -> Tenant:
        now_s = time.monotonic()
        known = self._known.get(name)
        if known is not None and now_s - known[1] < REMEMBER_S:
            return known[0]
        tenant = await self._store.run(lambda connection: self._tenants.admitted(connection, name))
        self._known[name] = (tenant, now_s)
        return tenant


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _serial(certificate: bytes) -> str:
    return serial_of(x509.load_pem_x509_certificate(certificate))


def _credential(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            return value.removeprefix(_BEARER)
    return None
