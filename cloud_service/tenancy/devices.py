"""Which devices there are, by which certificates they are known, and the codes by which new ones come in: in the state database.

A device without a row is known by any certificate of the configured authority. One that was enrolled here is known by the
certificate it got last, and by the one before until that runs out, so that a renewal cuts no connection; by no other, so
that enrolling it again shuts out whoever holds the old key. One that was revoked is known by none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from cloud_service.errors import TenantError
from cloud_service.identity import Identity, is_label
from cloud_service.storage.state_store import DEVICES, ENROLMENT_CODES, StateStore
from cloud_service.tenancy.api_keys import pepper_of
from cloud_service.tenancy.authority import IssuedCertificate
from cloud_service.tenancy.tenants import API_DEVICE, Tenants
from protos.enrolment_code import EnrolmentCode
from protos.errors import PermissionDeniedError, UnauthenticatedError

Certify = Callable[[Identity], IssuedCertificate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One line of ``cloud-service devices list``."""

    identity: Identity
    is_active: bool
    serial: str | None
    expires: float | None  # Unix seconds, of its certificate


class Devices:
    """The register; its functions run inside a transaction of the store."""

    def __init__(self, store: StateStore, tenants: Tenants, master_key: bytes) -> None:
        self._store = store
        self._tenants = tenants
        self._pepper = pepper_of(master_key)

    def add_code(
        self,
        connection: sa.Connection,
        identity: Identity,
        authority_pem: bytes,
        *,
        lifetime_s: float,
        now: float,
    ) -> EnrolmentCode:
        """Make a code by which one device can enrol once; its earlier codes end.

        Raises:
            TenantError: A name is none, or is reserved, or the tenant may not use the service.
        """
        _check_names(identity)
        if identity.device == API_DEVICE:
            raise TenantError(f"`{API_DEVICE}` is what callers with a key are called; name another")
        try:
            self._tenants.admitted(connection, identity.tenant)
        except PermissionDeniedError:
            raise TenantError(
                f"tenant {identity.tenant} may not use the service; run `cloud-service tenants add` first"
            ) from None
        connection.execute(sa.delete(ENROLMENT_CODES).where(*_is(ENROLMENT_CODES, identity)))
        code = EnrolmentCode.new(authority_pem)
        connection.execute(
            sa.insert(ENROLMENT_CODES).values(
                tenant=identity.tenant,
                code_id=code.code_id,
                device=identity.device,
                digest=self._digest(code),
                expires=now + lifetime_s,
            )
        )
        return code

    def enrol(
        self,
        connection: sa.Connection,
        text: str,
        signing_request: bytes,
        certify: Certify,
        *,
        now: float,
    ) -> tuple[Identity, str]:
        """Use a code up; returns who the device is and its certificate, PEM.

        The same code with the same request gives the same certificate again, so that a lost reply is no lost code: whoever
        repeats it without the private key gains nothing.

        Raises:
            UnauthenticatedError: The code is malformed, unknown, used, expired, or of a tenant that may no longer come in.
        """
        refused = UnauthenticatedError(
            "the enrolment code is not valid; ask the operator for a new one"
        )
        code = EnrolmentCode.parse(text)
        if code is None:
            raise refused
        request_sha256 = hashlib.sha256(signing_request).digest()
        row = connection.execute(
            sa.select(ENROLMENT_CODES).where(ENROLMENT_CODES.c.code_id == code.code_id)
        ).one_or_none()
        if row is None or not hmac.compare_digest(self._digest(code), row.digest):
            raise refused
        if row.expires <= now:
            raise refused
        identity = Identity(tenant=row.tenant, device=row.device)
        try:
            self._tenants.admitted(connection, identity.tenant)
        except PermissionDeniedError:
            raise refused from None
        if row.request_sha256 is not None:
            if row.request_sha256 != request_sha256:
                raise refused
            return identity, row.certificate
        issued = certify(identity)
        used = connection.execute(
            sa.update(ENROLMENT_CODES)
            .where(
                ENROLMENT_CODES.c.tenant == row.tenant,
                ENROLMENT_CODES.c.code_id == row.code_id,
                ENROLMENT_CODES.c.request_sha256.is_(None),
            )
            .values(request_sha256=request_sha256, certificate=issued.pem)
        )
        if used.rowcount != 1:  # at the same moment, on another replica
            raise refused
        self._know(connection, identity, issued, previous=None, now=now)
        return identity, issued.pem

    def renew(
        self,
        connection: sa.Connection,
        identity: Identity,
        serial: str,
        certify: Certify,
        *,
        now: float,
    ) -> str:
        """Give a device its next certificate, PEM; the one with this serial number goes on until it runs out.

        Raises:
            PermissionDeniedError: The certificate that it showed is no longer the device's.
        """
        self.check(connection, identity, serial)
        issued = certify(identity)
        self._know(connection, identity, issued, previous=serial, now=now)
        return issued.pem

    def check(self, connection: sa.Connection, identity: Identity, serial: str | None) -> None:
        """Let a device in.

        Args:
            connection: The transaction.
            identity: Who a verified certificate or token says it is.
            serial: Of the certificate; None where a token alone was shown.

        Raises:
            PermissionDeniedError: It was revoked, or enrolled again since this certificate.
        """
        row = connection.execute(
            sa.select(DEVICES.c.active, DEVICES.c.serial, DEVICES.c.previous_serial).where(
                *_is(DEVICES, identity)
            )
        ).one_or_none()
        if row is None:
            return
        if not row.active:
            raise PermissionDeniedError(
                "this device was revoked; ask the operator for an enrolment code"
            )
        known = (None, row.serial, row.previous_serial)
        if row.serial is not None and serial not in known:
            raise PermissionDeniedError(
                "this certificate was replaced by a later one; use that, or enrol the device again"
            )

    def revoke(self, connection: sa.Connection, identity: Identity, *, now: float) -> None:
        """Refuse a device from now on, with every certificate it has, and end its codes.

        Raises:
            TenantError: A name is none.
        """
        _check_names(identity)
        values = {
            "tenant": identity.tenant,
            "device": identity.device,
            "active": False,
            "changed": now,
        }
        connection.execute(self._store.insert_once(DEVICES, values))
        connection.execute(
            sa.update(DEVICES).where(*_is(DEVICES, identity)).values(active=False, changed=now)
        )
        connection.execute(sa.delete(ENROLMENT_CODES).where(*_is(ENROLMENT_CODES, identity)))

    def list(self, connection: sa.Connection, tenant: str) -> tuple[Device, ...]:
        """All devices of a tenant that were enrolled or revoked here, by name."""
        rows = connection.execute(
            sa.select(DEVICES).where(DEVICES.c.tenant == tenant).order_by(DEVICES.c.device)
        ).all()
        return tuple(
            Device(
                identity=Identity(tenant=row.tenant, device=row.device),
                is_active=row.active,
                serial=row.serial,
                expires=row.expires,
            )
            for row in rows
        )

    def revoked(self, connection: sa.Connection) -> frozenset[Identity]:
        """Every device that was revoked."""
        rows = connection.execute(
            sa.select(DEVICES.c.tenant, DEVICES.c.device).where(DEVICES.c.active.is_(False))
        )
        return frozenset(Identity(tenant=row.tenant, device=row.device) for row in rows)

    def purge(self, connection: sa.Connection, *, now: float) -> None:
        """Forget codes that have run out."""
        connection.execute(sa.delete(ENROLMENT_CODES).where(ENROLMENT_CODES.c.expires <= now))

    def _know(
        self,
        connection: sa.Connection,
        identity: Identity,
        issued: IssuedCertificate,
        *,
        previous: str | None,
        now: float,
    ) -> None:
        values = {
            "active": True,
            "serial": issued.serial,
            "previous_serial": previous,
            "expires": issued.expires,
            "changed": now,
        }
        key = {"tenant": identity.tenant, "device": identity.device}
        connection.execute(self._store.insert_once(DEVICES, {**key, **values}))
        connection.execute(sa.update(DEVICES).where(*_is(DEVICES, identity)).values(**values))

    def _digest(self, code: EnrolmentCode) -> bytes:
        return hmac.digest(self._pepper, code.text.encode("ascii"), hashlib.sha256)


def _is(table: sa.Table, identity: Identity) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.tenant == identity.tenant, table.c.device == identity.device)


def _check_names(identity: Identity) -> None:
    if not (is_label(identity.tenant) and is_label(identity.device)):
        raise TenantError(
            "tenant and device must each be one DNS label: up to 63 of a-z, 0-9 and inner hyphens"
        )
