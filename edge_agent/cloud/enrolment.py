"""How a device comes by its certificate: with a one-time code, and later with the certificate it has.

With a code there is nothing to trust yet, so it goes in two steps. The server's certificate is taken as it comes, and over a
connection bound to it the server says which authority it belongs to; that is believed only where its digest is the pin in the
code. The code itself goes over a second connection, whose certificate that authority has to have signed.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from edge_agent.cloud.channel import ChannelSettings, TlsFiles, load_credentials
from edge_agent.errors import ConfigError
from protos.enrolment.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.enrolment_code import EnrolmentCode
from protos.errors import PermissionDeniedError, UnavailableError, from_rpc_error

CALL_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the cloud gave."""

    certificate_pem: bytes
    authority_pem: bytes
    target: str  # host:port, for devices with a certificate


def enrol(target: str, code_text: str, signing_request: bytes) -> Credentials:
    """Use a code up. Safe to repeat with the same request: the reply is then the same.

    Args:
        target: ``host:port`` of the cloud's port without client certificates.
        code_text: From the operator.
        signing_request: PKCS #10, DER.

    Raises:
        ConfigError: The code or the target is malformed.
        PermissionDeniedError: Another server than the code's answers there; the code was not shown to it.
        WireError: The cloud refuses, or cannot be reached.
    """
    code = EnrolmentCode.parse(code_text)
    if code is None:
        raise ConfigError(
            "that is no enrolment code; copy it as `cloud-service devices` printed it"
        )
    authority_pem = _pinned_authority(target, code)
    with _stub(target, grpc.ssl_channel_credentials(authority_pem)) as stub:
        reply = stub.Enrol(
            enrolment_pb2.EnrolRequest(code=code_text, signing_request=signing_request),
            timeout=CALL_S,
        )
    return _credentials(reply.credentials)


def renew(target: str, files: TlsFiles, signing_request: bytes) -> Credentials:
    """Get the next certificate, for a fresh key, with the present one.

    Raises:
        ConfigError: The present one cannot be used.
        WireError: The cloud refuses, or cannot be reached.
    """
    with _stub(target, load_credentials(files)) as stub:
        reply = stub.Renew(
            enrolment_pb2.RenewRequest(signing_request=signing_request), timeout=CALL_S
        )
    return _credentials(reply.credentials)


def _pinned_authority(target: str, code: EnrolmentCode) -> bytes:
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{target}: not an address; give host:port")
    try:
        leaf = ssl.get_server_certificate(
            (host.removeprefix("[").removesuffix("]"), int(port)), timeout=CALL_S
        )
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"no server with TLS answers at {target}; check address and network"
        ) from error
    with _stub(target, grpc.ssl_channel_credentials(leaf.encode("ascii"))) as stub:
        reply = stub.GetAuthority(enrolment_pb2.GetAuthorityRequest(), timeout=CALL_S)
    authority_pem: bytes = reply.authority_pem.encode("utf-8")
    try:
        is_pinned = code.pins(authority_pem)
    except ValueError:
        is_pinned = False
    if not is_pinned:
        raise PermissionDeniedError(
            "another server answers there than the one this code is for; check the address, and who is in between"
        )
    return authority_pem


@contextmanager
def _stub(
    target: str, credentials: grpc.ChannelCredentials
) -> Iterator[enrolment_pb2_grpc.EnrolmentServiceStub]:
    try:
        with grpc.secure_channel(target, credentials, ChannelSettings().options()) as channel:
            yield enrolment_pb2_grpc.EnrolmentServiceStub(channel)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _credentials(wire: enrolment_pb2.Credentials) -> Credentials:
    return Credentials(
        certificate_pem=wire.certificate_pem.encode("utf-8"),
        authority_pem=wire.authority_pem.encode("utf-8"),
        target=wire.target,
    )
