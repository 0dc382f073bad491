"""The enrolment RPCs. Two of them are answered to anybody, so everything here is bounded, and every wrong code is refused alike."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Any, Final

import grpc
import sqlalchemy as sa

from cloud_service.config import CloudConfig
from cloud_service.errors import PkiError
from cloud_service.identity import Identity
from cloud_service.logs import Event
from cloud_service.rpc.calls import current_call
from cloud_service.storage.state_store import StateStore
from cloud_service.tenancy.authority import DeviceAuthority, IssuedCertificate
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.quotas import Bucket
from cloud_service.tenancy.signing_request import public_key_of
from protos.enrolment.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.errors import PermissionDeniedError, QuotaExceededError, UnsupportedError

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

STRANGERS_PER_S: Final = 2.0  # calls from one address without a certificate
STRANGERS_BURST: Final = 10.0
ALL_STRANGERS_PER_S: Final = 50.0
ALL_STRANGERS_BURST: Final = 100.0
MAX_ADDRESSES: Final = 4096  # remembered at a time


class StrangerLimit:
    """How often callers that nobody knows may call: by address, and all together. One thread."""

    def __init__(self) -> None:
        self._all = Bucket(rate_per_s=ALL_STRANGERS_PER_S, burst=ALL_STRANGERS_BURST)
        self._each: OrderedDict[str, Bucket] = OrderedDict()

    def admit(self, peer: str, now_s: float) -> None:
        """Count one call.

        Args:
            peer: As gRPC says it, with the port.
            now_s: Monotonic.

        Raises:
            QuotaExceededError: There were too many; says when to come back.
        """
        address = peer.rpartition(":")[0]
        bucket = self._each.pop(address, None)
        if bucket is None:
            bucket = Bucket(rate_per_s=STRANGERS_PER_S, burst=STRANGERS_BURST)
        self._each[address] = bucket
        while len(self._each) > MAX_ADDRESSES:
            self._each.popitem(last=False)
        if (wait_s := max(one.wait_s(1.0, now_s) for one in (bucket, self._all))) > 0:
            raise QuotaExceededError(
                "too many enrolments at once; come back later",
                retry_after_s=wait_s,
                quota="enrolments_per_s",
            )
        for one in (bucket, self._all):
            one.take(1.0, now_s)


class Enrolment:
    """Signs certificates for devices that have a code, or a certificate that still holds."""

    def __init__(self, config: CloudConfig, store: StateStore, devices: Devices) -> None:
        """Read the authority, if there is one.

        Raises:
            PkiError: It cannot be used.
        """
        self._store = store
        self._devices = devices
        self._limit = StrangerLimit()
        self._days = config.enrolment.certificate_days
        self._target = config.enrolment.target
        self._authority: DeviceAuthority | None = None
        self._authority_pem = ""
        enrolment, trusted = config.enrolment, config.tls.client_authority
        if enrolment.key is None or enrolment.certificate is None or trusted is None:
            return
        self._authority = DeviceAuthority(enrolment.certificate, enrolment.key, trusted=trusted)
        path = enrolment.server_authority or trusted
        try:
            self._authority_pem = path.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise PkiError(
                f"{path}: cannot be read ({type(error).__name__}); correct `enrolment`"
            ) from error

    def authority_pem(self, peer: str) -> str:
        """By what this server's certificate is verified; for anybody.

        Raises:
            UnsupportedError: This service enrols nobody.
            QuotaExceededError: Too many ask.
        """
        self._limit.admit(peer, time.monotonic())
        self._signer()
        return self._authority_pem

    async def enrol(
        self, peer: str, code: str, signing_request: bytes
    ) -> enrolment_pb2.Credentials:
        """A code for a certificate.

        Raises:
            UnsupportedError: This service enrols nobody.
            QuotaExceededError: Too many ask.
            InvalidRequestError: The signing request is none.
            UnauthenticatedError: The code is not valid.
        """
        self._limit.admit(peer, time.monotonic())
        signer, key = self._signer(), public_key_of(signing_request)

        def certify(identity: Identity) -> IssuedCertificate:
            return signer.certify(key, identity, days=self._days)

        def work(connection: sa.Connection) -> tuple[Identity, str]:
            return self._devices.enrol(connection, code, signing_request, certify, now=time.time())

        identity, pem = await self._store.run(work)
        logger.info(Event("enrolled", tenant=identity.tenant, device=identity.device))
        return self._credentials(pem)

    async def renew(
        self, identity: Identity, serial: str | None, signing_request: bytes
    ) -> enrolment_pb2.Credentials:
        """A certificate for the next one.

        Raises:
            UnsupportedError: This service enrols nobody.
            PermissionDeniedError: No certificate was shown, or it is no longer the device's.
            InvalidRequestError: The signing request is none.
        """
        signer = self._signer()
        if serial is None:  # a token lives for minutes, and must not be turned into months
            raise PermissionDeniedError(
                "a certificate is renewed with that certificate; connect over mutual TLS"
            )
        key = public_key_of(signing_request)

        def certify(of: Identity) -> IssuedCertificate:
            return signer.certify(key, of, days=self._days)

        pem = await self._store.run(
            lambda connection: self._devices.renew(
                connection, identity, serial, certify, now=time.time()
            )
        )
        logger.info(Event("renewed", tenant=identity.tenant, device=identity.device))
        return self._credentials(pem)

    def _signer(self) -> DeviceAuthority:
        if self._authority is None:
            raise UnsupportedError(
                "this service enrols no devices; the operator sets `enrolment`, or issues a certificate"
            )
        return self._authority

    def _credentials(self, pem: str) -> enrolment_pb2.Credentials:
        return enrolment_pb2.Credentials(
            certificate_pem=pem, authority_pem=self._authority_pem, target=self._target
        )


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Wire messages in and out."""

    def __init__(self, enrolment: Enrolment) -> None:
        """Take what answers."""
        self._enrolment = enrolment

    async def GetAuthority(  # noqa: N802 - the wire's name
        self, request: enrolment_pb2.GetAuthorityRequest, context: Context
    ) -> enrolment_pb2.GetAuthorityResponse:
        """Public, and believed only with a pin."""
        return enrolment_pb2.GetAuthorityResponse(
            authority_pem=self._enrolment.authority_pem(context.peer())
        )

    async def Enrol(  # noqa: N802 - the wire's name
        self, request: enrolment_pb2.EnrolRequest, context: Context
    ) -> enrolment_pb2.EnrolResponse:
        """A code for a certificate."""
        credentials = await self._enrolment.enrol(
            context.peer(), request.code, request.signing_request
        )
        return enrolment_pb2.EnrolResponse(credentials=credentials)

    async def Renew(  # noqa: N802 - the wire's name
        self, request: enrolment_pb2.RenewRequest, context: Context
    ) -> enrolment_pb2.RenewResponse:
        """A certificate for the next one."""
        call = current_call()
        credentials = await self._enrolment.renew(
            call.identity, call.certificate_serial, request.signing_request
        )
        return enrolment_pb2.RenewResponse(credentials=credentials)
