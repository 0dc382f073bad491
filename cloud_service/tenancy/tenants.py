"""Who may use this service, and how much: tenants, their API keys, their limits and their daily bill, in the state database."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from cloud_service.config import CloudConfig
from cloud_service.errors import TenantError
from cloud_service.identity import LOOPBACK_IDENTITY, Identity, is_label
from cloud_service.storage.state_store import API_KEYS, TENANTS, USAGE_DAYS, StateStore
from cloud_service.tenancy.api_keys import ApiKey, pepper_of
from cloud_service.tenancy.quotas import Quota
from protos.errors import PermissionDeniedError, UnauthenticatedError

MAX_ACTIVE_KEYS = 2  # the old and the new one, while a backend changes over
STANDARD_CLASS = "standard"
UNREGISTERED_CLASS = "unregistered"
API_DEVICE = "api"  # the device of a caller that shows an API key


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant."""

    name: str
    is_active: bool = True
    is_registered: bool = True
    service_class: str = STANDARD_CLASS  # a word of the operator's, by which latencies are told
    quota: Quota
    spent_micro_usd: int = 0  # today, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRow:
    """One line of ``cloud-service tenants list``."""

    tenant: Tenant
    num_active_keys: int


class Tenants:
    """The register; its functions run inside a transaction of the store."""

    def __init__(
        self, store: StateStore, pepper: bytes, *, default: Quota, admitted: Collection[str] = ()
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._default = default
        self._admitted = frozenset(admitted)

    def add(
        self,
        connection: sa.Connection,
        name: str,
        quota: Quota,
        service_class: str = STANDARD_CLASS,
    ) -> ApiKey:
        """Register a tenant and give it a key.

        Raises:
            TenantError: A name is none, or the tenant exists.
        """
        if not is_label(service_class):
            raise TenantError("a class is one word of up to 63 of a-z, 0-9 and inner hyphens")
        if not is_label(name):
            raise TenantError(
                "a tenant's name is one DNS label: up to 63 of a-z, 0-9 and inner hyphens"
            )
        values = {
            "tenant": name,
            "active": True,
            "service_class": service_class,
            "created": time.time(),
            **asdict(quota),
        }
        if connection.execute(self._store.insert_once(TENANTS, values)).rowcount == 0:
            raise TenantError(f"tenant {name} exists already; rotate its key, or revoke it")
        return self._new_key(connection, name)

    def rotate(self, connection: sa.Connection, name: str) -> ApiKey:
        """Give a tenant a new key; of the old ones the newest still works, until the next rotation.

        Raises:
            TenantError: There is no such active tenant.
        """
        self._require_active(connection, name)
        keys = connection.execute(
            sa.select(API_KEYS.c.key_id)
            .where(API_KEYS.c.tenant == name)
            .order_by(API_KEYS.c.created.desc(), API_KEYS.c.key_id)
        ).scalars()
        for key_id in list(keys)[MAX_ACTIVE_KEYS - 1 :]:
            connection.execute(
                sa.delete(API_KEYS).where(API_KEYS.c.tenant == name, API_KEYS.c.key_id == key_id)
            )
        return self._new_key(connection, name)

    def revoke(self, connection: sa.Connection, name: str) -> None:
        """Refuse a tenant from now on: its keys are deleted, its certificates no longer accepted.

        Raises:
            TenantError: The name is none.
        """
        if not is_label(name):
            raise TenantError("that is no tenant's name; see `cloud-service tenants list`")
        values = {
            "tenant": name,
            "active": False,
            "service_class": STANDARD_CLASS,
            "created": time.time(),
            **asdict(self._default),
        }
        connection.execute(self._store.insert_once(TENANTS, values))
        connection.execute(sa.update(TENANTS).where(TENANTS.c.tenant == name).values(active=False))
        connection.execute(sa.delete(API_KEYS).where(API_KEYS.c.tenant == name))

    def list(self, connection: sa.Connection) -> tuple[TenantRow, ...]:
        """All registered tenants, by name."""
        grouped = sa.select(API_KEYS.c.tenant, sa.func.count()).group_by(API_KEYS.c.tenant)
        counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(grouped)}
        rows = connection.execute(sa.select(TENANTS).order_by(TENANTS.c.tenant)).all()
        return tuple(
            TenantRow(
                tenant=self._tenant(connection, row), num_active_keys=counts.get(row.tenant, 0)
            )
            for row in rows
        )

    def admitted(self, connection: sa.Connection, name: str) -> Tenant:
        """The tenant of a verified certificate.

        Raises:
            PermissionDeniedError: It was revoked, or is neither registered nor admitted by the configuration.
        """
        row = connection.execute(sa.select(TENANTS).where(TENANTS.c.tenant == name)).one_or_none()
        if row is None and name in self._admitted:
            spent = self._spent(connection, name)
            return Tenant(
                name=name,
                is_registered=False,
                service_class=UNREGISTERED_CLASS,
                quota=self._default,
                spent_micro_usd=spent,
            )
        if row is None or not row.active:
            raise PermissionDeniedError(
                "this tenant may not use the service; ask the operator to add it"
            )
        return self._tenant(connection, row)

    def revoked(self, connection: sa.Connection) -> frozenset[str]:
        """Every tenant that was revoked."""
        return frozenset(
            connection.scalars(sa.select(TENANTS.c.tenant).where(TENANTS.c.active.is_(False)))
        )

    def by_key(self, connection: sa.Connection, text: str) -> Identity:
        """The caller that shows an API key.

        Raises:
            UnauthenticatedError: It is no key of an active tenant.
        """
        key = ApiKey.parse(text)
        if key is not None:
            rows = connection.execute(
                sa.select(API_KEYS.c.tenant, API_KEYS.c.digest).where(
                    API_KEYS.c.key_id == key.key_id
                )
            ).all()
            for row in rows:
                if key.matches(row.digest, self._pepper):
                    return Identity(tenant=row.tenant, device=API_DEVICE)
        raise UnauthenticatedError("the API key is not valid; ask the operator for a new one")

    def bill(self, connection: sa.Connection, name: str, micro_usd: int) -> None:
        """Add to the tenant's bill of today; shares the transaction that stores the answer."""
        key = {"tenant": name, "day": _today()}
        connection.execute(self._store.insert_once(USAGE_DAYS, {**key, "micro_usd": 0}))
        connection.execute(
            sa.update(USAGE_DAYS)
            .where(USAGE_DAYS.c.tenant == name, USAGE_DAYS.c.day == key["day"])
            .values(micro_usd=USAGE_DAYS.c.micro_usd + micro_usd)
        )

    def _require_active(self, connection: sa.Connection, name: str) -> None:
        active = connection.scalar(sa.select(TENANTS.c.active).where(TENANTS.c.tenant == name))
        if not active:
            raise TenantError("there is no such active tenant; see `cloud-service tenants list`")

    def _new_key(self, connection: sa.Connection, name: str) -> ApiKey:
        key = ApiKey.new()
        connection.execute(
            sa.insert(API_KEYS).values(
                tenant=name,
                key_id=key.key_id,
                digest=key.digest(self._pepper),
                created=time.time(),
            )
        )
        return key

    def _tenant(self, connection: sa.Connection, row: Any) -> Tenant:
        return Tenant(
            name=row.tenant,
            is_active=row.active,
            service_class=row.service_class,
            quota=Quota(
                concurrent_calls=row.concurrent_calls,
                requests_per_s=row.requests_per_s,
                tokens_per_minute=row.tokens_per_minute,
                daily_micro_usd=row.daily_micro_usd,
            ),
            spent_micro_usd=self._spent(connection, row.tenant),
        )

    def _spent(self, connection: sa.Connection, name: str) -> int:
        spent = connection.scalar(
            sa.select(USAGE_DAYS.c.micro_usd).where(
                USAGE_DAYS.c.tenant == name, USAGE_DAYS.c.day == _today()
            )
        )
        return int(spent or 0)


def make_tenants(store: StateStore, master_key: bytes, config: CloudConfig) -> Tenants:
    """The register as a configuration wants it."""
    default = Quota(**config.tenants.default_quota.model_dump())
    admitted = set(config.tenants.admitted)
    if config.tls.insecure_loopback:
        admitted.add(LOOPBACK_IDENTITY.tenant)
    return Tenants(
        store,
        pepper_of(master_key),
        default=default,
        admitted=admitted,
    )


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
