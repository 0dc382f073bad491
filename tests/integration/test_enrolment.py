"""A device comes in by a code, stays by renewal, and goes by revocation: the real commands, a real server, TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_service.cli import main as cloud_main
from cloud_service.commands.tenants import opened_register
from cloud_service.identity import Identity
from cloud_service.storage.envelope import load_master_key
from cloud_service.storage.state_store import DEVICES
from cloud_service.tenancy import pki
from cloud_service.tenancy.authority import DeviceAuthority
from cloud_service.tenancy.devices import Devices
from cloud_service.tenancy.roles import Role
from cloud_service.tenancy.signing_request import MAX_BYTES, public_key_of
from cloud_service.tenancy.tokens import make_signing_key, sign_token
from edge_agent.cli import edge_agent
from edge_agent.cloud.channel import TlsFiles
from edge_agent.cloud.enrolment import enrol, renew
from edge_agent.config import CloudConfig, load_config
from edge_agent.enrolling import enrol_device, kept_certificate
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.identity_folder import IdentityFolder
from partition.console_script import run_script
from partition.errors import PartitionError
from protos.enrolment.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.enrolment_code import EnrolmentCode
from protos.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    QuotaExceededError,
    UnauthenticatedError,
    UnsupportedError,
    WireError,
    from_rpc_error,
)
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.cloud_harness import SCANNER, RunningCloud, Site, running_cloud
from tests.model_servers import free_port

NEW = Identity(tenant="clinic", device="scanner-9")
GET_MODEL = inference_pb2.GetModelRequest()


@pytest.fixture
def site(tmp_path: Path, model: Path) -> Site:
    made = Site.make(tmp_path / "site", model)
    port = free_port()
    (made.root / "cloud.toml").write_text(
        "listen = '127.0.0.1:0'\nbackend_listen = '127.0.0.1:0'\n"
        "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n"
        "[tenants]\nadmitted = ['clinic', 'rival']\n[state]\ndirectory = 'state'\n"
        f"[enrolment]\ncertificate = 'ca.crt'\nkey = 'ca.key'\ntarget = '127.0.0.1:{port}'\n"
    )
    return made


@contextlib.asynccontextmanager
async def enrolling(site: Site, **sections: Any) -> AsyncIterator[RunningCloud]:
    """A service as ``cloud.toml`` says, on the port that it tells devices."""
    text = (site.root / "cloud.toml").read_text()
    target = text.rpartition("target = '")[2].partition("'")[0]
    enrolment = {
        "certificate": str(site.root / "ca.crt"),
        "key": str(site.root / "ca.key"),
        "target": target,
    }
    async with running_cloud(
        site, listen=target, backend_listen="127.0.0.1:0", enrolment=enrolment, **sections
    ) as cloud:
        yield cloud


def cloud(site: Site, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run ``cloud-service devices``, beside the running service."""
    config = ["--config", str(site.root / "cloud.toml"), "--json"]
    assert cloud_main(["devices", *arguments, *config]) == 0
    return json.loads(capsys.readouterr().out)


def code_for(site: Site, capsys: pytest.CaptureFixture[str], identity: Identity = NEW) -> str:
    text: str = cloud(site, capsys, "enrol-code", identity.tenant, identity.device)["code"]
    return text


def expired_code(site: Site) -> str:
    """A code that was good until a second ago."""
    with opened_register(site.root / "cloud.toml") as (store, tenants, config):
        register = Devices(store, tenants, load_master_key(config.state.master_key_path))
        authority, now = (site.root / "ca.crt").read_bytes(), time.time()
        code = store.run_here(
            lambda connection: register.add_code(
                connection, NEW, authority, lifetime_s=900, now=now - 901
            )
        )
    return code.text


async def device(*arguments: str) -> int:
    """Run ``edge-agent`` in a thread: the server answers in this one."""
    expected = (EdgeError, PartitionError, WireError)
    return await asyncio.to_thread(run_script, edge_agent, expected, [*arguments, "--json"])


def signing_request(key: Any = None, *, subject: str = "", san: str = "") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    )
    if san:
        names = x509.SubjectAlternativeName([x509.DNSName(san)])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


class Stranger:
    """A caller without certificate that knows the server's authority."""

    def __init__(self, running: RunningCloud) -> None:
        assert running.endpoints.backend is not None
        authority = (running.site.root / "ca.crt").read_bytes()
        self.channel = grpc.aio.secure_channel(
            running.endpoints.backend, grpc.ssl_channel_credentials(authority)
        )
        self.stub = enrolment_pb2_grpc.EnrolmentServiceStub(self.channel)

    async def enrol(self, code: str, request: bytes) -> enrolment_pb2.Credentials:
        reply = await self.stub.Enrol(
            enrolment_pb2.EnrolRequest(code=code, signing_request=request), timeout=10
        )
        found: enrolment_pb2.Credentials = reply.credentials
        return found

    async def refused(self, code: str, request: bytes) -> WireError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.enrol(code, request)
        return from_rpc_error(caught.value)

    async def __aenter__(self) -> Stranger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


async def get_model(target: str, folder: IdentityFolder) -> str:
    credentials = grpc.ssl_channel_credentials(
        folder.authority.read_bytes(), folder.key.read_bytes(), folder.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(target, credentials) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        found: str = (await stub.GetModel(GET_MODEL, timeout=10)).model
        return found


async def denied(target: str, folder: IdentityFolder) -> WireError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_model(target, folder)
    return from_rpc_error(caught.value)


async def test_two_commands_enrol_a_device_and_one_renews_it(
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    config, folder = tmp_path / "edge.toml", IdentityFolder(tmp_path / "identity")
    async with enrolling(site) as running:
        code = code_for(site, capsys)
        assert running.endpoints.backend is not None
        words = ("enrol", "--cloud", running.endpoints.backend, "--code", code)
        words += ("--config", str(config), "--directory", str(folder.root))
        assert await device(*words) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["device"] == "clinic/scanner-9"
        read = load_config(config, environment={}).cloud
        assert (read.target, read.key) == (running.endpoints.address, folder.key)
        assert stat.S_IMODE(folder.key.stat().st_mode) == 0o600
        assert await get_model(read.target, folder)
        certificate = x509.load_pem_x509_certificate(folder.certificate.read_bytes())
        life = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
        assert dt.timedelta(days=89) < life <= dt.timedelta(days=90)
        # Not yet due; then by hand, and the next certificate is for another key.
        assert await device("renew", "--config", str(config)) == 0
        assert json.loads(capsys.readouterr().out)["renewed"] is False
        first_key, first = folder.key.read_bytes(), folder.certificate.read_bytes()
        assert await device("renew", "--config", str(config), "--now") == 0
        assert json.loads(capsys.readouterr().out)["renewed"] is True
        assert folder.key.read_bytes() != first_key
        assert folder.certificate.read_bytes() != first
        assert await get_model(read.target, folder)
        before = tmp_path / "before"  # whose calls must not be cut by the renewal
        before.mkdir()
        (before / "current").mkdir()
        (before / "current/device.key").write_bytes(first_key)
        (before / "current/device.crt").write_bytes(first)
        (before / "current/ca.crt").write_bytes(folder.authority.read_bytes())
        assert await get_model(read.target, IdentityFolder(before))
        (listed,) = cloud(site, capsys, "list", "clinic")["devices"]
        assert (listed["device"], listed["active"]) == ("scanner-9", True)
        database = b"".join(path.read_bytes() for path in (site.root / "state").glob("state.sq*"))
    secret = code.split("_")[2]
    assert secret not in caplog.text
    assert secret.encode() not in database


async def test_a_code_is_good_once_and_a_lost_reply_is_no_lost_code(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with enrolling(site) as running, Stranger(running) as stranger:
        code, request = code_for(site, capsys), signing_request()
        first = await stranger.enrol(code, request)
        assert await stranger.enrol(code, request) == first  # the reply was lost
        # Stolen on the way: another key gets nothing.
        assert isinstance(await stranger.refused(code, signing_request()), UnauthenticatedError)
        # A second code ends the first, used or not.
        later = code_for(site, capsys)
        assert isinstance(await stranger.refused(code, request), UnauthenticatedError)
        both = await asyncio.gather(
            *(stranger.enrol(later, signing_request()) for _ in range(4)), return_exceptions=True
        )
        assert sum(isinstance(one, enrolment_pb2.Credentials) for one in both) == 1


async def test_wrong_expired_and_foreign_codes_are_refused_alike(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with enrolling(site) as running, Stranger(running) as stranger:
        good = code_for(site, capsys)
        _, code_id, secret, pin = good.split("_")
        sentences = set()
        for wrong in (
            "",
            "tne_",
            good.upper(),
            f"{good} ",
            f"tne_{code_id}_{'0' * 32}_{pin}",
            f"tne_{'0' * 12}_{secret}_{pin}",
            f"tne_{code_id}_{secret}_{'0' * 32}",
            "' OR 1=1 --",
        ):
            error = await stranger.refused(wrong, signing_request())
            assert isinstance(error, UnauthenticatedError)
            sentences.add(error.message)
        assert len(sentences) == 1  # nobody learns which part was wrong
    async with enrolling(site) as running, Stranger(running) as stranger:
        stale = expired_code(site)
        assert isinstance(await stranger.refused(stale, signing_request()), UnauthenticatedError)
        good = code_for(site, capsys)
        assert (
            cloud_main(["tenants", "revoke", "clinic", "--config", str(site.root / "cloud.toml")])
            == 0
        )
        assert isinstance(await stranger.refused(good, signing_request()), UnauthenticatedError)


async def test_guessing_is_slowed_down(site: Site) -> None:
    async with enrolling(site) as running, Stranger(running) as stranger:
        errors = [await stranger.refused("tne_", signing_request()) for _ in range(14)]
        assert isinstance(errors[0], UnauthenticatedError)
        limited = [error for error in errors if isinstance(error, QuotaExceededError)]
        assert limited
        assert all(error.retry_after_s for error in limited)


async def test_a_request_that_wishes_for_anything_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with enrolling(site) as running, Stranger(running) as stranger:
        code = code_for(site, capsys)
        other = f"scanner-1.rival.{'device.tandem.internal'}"
        for request in (
            signing_request(subject=other),
            signing_request(san=other),
            signing_request(rsa.generate_private_key(65537, 2048)),
            signing_request(ec.generate_private_key(ec.SECP521R1())),
            signing_request()[:-1] + b"\0",
            b"",
            bytes(MAX_BYTES + 1),
        ):
            assert isinstance(await stranger.refused(code, request), InvalidRequestError)
        await stranger.enrol(code, signing_request())  # none of them used the code up


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_damaged_requests_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    whole = bytearray(_WHOLE)
    kind = data.draw(st.sampled_from(("random", "cut", "flip", "splice")))
    if kind == "random":
        damaged = data.draw(st.binary(max_size=600))
    elif kind == "cut":
        damaged = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "flip":
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] ^= data.draw(st.integers(1, 255))
        damaged = bytes(whole)
    else:
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        damaged = bytes(whole[:start]) + data.draw(st.binary(max_size=40)) + bytes(whole[end:])
    if damaged == _WHOLE:
        return
    with contextlib.suppress(InvalidRequestError):
        # Whatever passes is signed by the key that it holds, so it is as good as a whole one.
        assert public_key_of(damaged) is not None


_WHOLE = signing_request()


async def test_a_revoked_device_is_out_in_the_middle_of_a_call(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    async with enrolling(site, releases={"directory": None}) as running:
        assert running.endpoints.backend is not None
        code = code_for(site, capsys)
        given_to = await asyncio.to_thread(
            enrol, running.endpoints.backend, code, folder.signing_request()
        )
        folder.install(given_to.certificate_pem, given_to.authority_pem)
        credentials = grpc.ssl_channel_credentials(
            folder.authority.read_bytes(), folder.key.read_bytes(), folder.certificate.read_bytes()
        )
        async with grpc.aio.secure_channel(running.endpoints.address, credentials) as channel:
            inference = inference_pb2_grpc.InferenceServiceStub(channel)
            extend = inference.Extend(timeout=60)  # waits for its first frame
            await inference.GetModel(GET_MODEL, timeout=10)
            cloud(site, capsys, "revoke", "clinic", "scanner-9")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(extend.read(), 8)
            assert isinstance(from_rpc_error(caught.value), PermissionDeniedError)
        assert isinstance(await denied(running.endpoints.address, folder), PermissionDeniedError)
        with pytest.raises(PermissionDeniedError):
            await asyncio.to_thread(
                renew,
                running.endpoints.address,
                TlsFiles(ca=folder.authority, certificate=folder.certificate, key=folder.key),
                folder.signing_request(),
            )
        # Another device of the tenant, and one that was never enrolled here, are as they were.
        async with running.client(SCANNER) as client:
            assert (await client.inference.GetModel(GET_MODEL, timeout=10)).model
        # Enrolled again, it is back, and its old certificate is not.
        old = tmp_path / "old"
        (old / "current").mkdir(parents=True)
        for name in ("device.key", "device.crt", "ca.crt"):
            (old / "current" / name).write_bytes((folder.root / "current" / name).read_bytes())
        given_to = await asyncio.to_thread(
            enrol,
            running.endpoints.backend,
            code_for(site, capsys),
            folder.signing_request(),
        )
        folder.install(given_to.certificate_pem, given_to.authority_pem)
        assert await get_model(running.endpoints.address, folder)
        assert isinstance(
            await denied(running.endpoints.address, IdentityFolder(old)), PermissionDeniedError
        )


async def test_only_a_certificate_is_renewed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    private, _ = make_signing_key(site.root / "tokens", "k1")
    token = sign_token(private, NEW, Role.DEVICE, lifetime_s=900, now=int(time.time()))
    tenants = {"token_keys": str(site.root / "tokens")}
    async with enrolling(site, tenants=tenants) as running, Stranger(running) as stranger:
        request = enrolment_pb2.RenewRequest(signing_request=signing_request())
        # Nothing at all; and a token of the very device, whose minutes must not become months.
        for metadata, error in (
            (None, UnauthenticatedError),
            ((("authorization", f"Bearer {token}"),), PermissionDeniedError),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stranger.stub.Renew(request, timeout=10, metadata=metadata)
            assert isinstance(from_rpc_error(caught.value), error)
        # One that the operator issued by hand may go over to renewal; whose it is decides the certificate.
        async with running.client(SCANNER) as client:
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(client.channel)
            reply = await stub.Renew(
                enrolment_pb2.RenewRequest(signing_request=signing_request()), timeout=10
            )
        certificate = x509.load_pem_x509_certificate(reply.credentials.certificate_pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [SCANNER.dns_name]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca


async def test_a_service_without_an_authority_enrols_nobody(site: Site) -> None:
    async with (
        running_cloud(site, backend_listen="127.0.0.1:0") as running,
        Stranger(running) as stranger,
    ):
        assert isinstance(await stranger.refused("tne_", signing_request()), UnsupportedError)


async def test_the_code_is_not_shown_to_another_server(
    site: Site, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody in between answers with a certificate of an own authority, and even with the right authority's."""
    code = code_for(site, capsys)
    other = Site.make(tmp_path / "other", model)
    seen: list[str] = []

    class Impostor(enrolment_pb2_grpc.EnrolmentServiceServicer):
        def __init__(self, authority: bytes) -> None:
            self.authority = authority

        def GetAuthority(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
            return enrolment_pb2.GetAuthorityResponse(authority_pem=self.authority.decode())

        def Enrol(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
            seen.append(request.code)
            return enrolment_pb2.EnrolResponse()

    for authority in (other.root / "ca.crt", site.root / "ca.crt"):
        server = grpc.server(ThreadPoolExecutor(2))
        enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            Impostor(authority.read_bytes()), server
        )
        pair = pki.CertificateFolder(other.root).server
        credentials = grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.certificate.read_bytes())]
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        with pytest.raises(WireError):
            await asyncio.to_thread(enrol, f"127.0.0.1:{port}", code, signing_request())
        await asyncio.to_thread(server.stop(None).wait)
    assert seen == []


def test_an_install_that_fails_leaves_what_was_in_use(tmp_path: Path) -> None:
    root = tmp_path / "pki"
    pki.create_authority(root)
    pair = pki.issue_device(root, SCANNER)
    folder = IdentityFolder(tmp_path / "identity")
    with folder.locked():
        request = folder.signing_request()
        assert folder.signing_request() == request  # asked again with the same key
        for pem in (b"", b"no certificate", pair.certificate.read_bytes()):
            with pytest.raises(ConfigError):
                folder.install(pem, b"")
        assert not (folder.root / "current").exists()
        assert folder.signing_request() == request


def test_the_agent_takes_a_renewed_certificate_over_by_itself(tmp_path: Path) -> None:
    """The link is what its channel looks at: the folder behind it changes as one."""
    from edge_agent.cloud.channel import _state_of

    root = tmp_path / "identity"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for file in ("device.key", "device.crt", "ca.crt"):
            (root / name / file).write_text("the same text")
    (root / "current").symlink_to("a")
    folder = IdentityFolder(root)
    files = TlsFiles(ca=folder.authority, certificate=folder.certificate, key=folder.key)
    before = _state_of(files)
    (root / ".current").symlink_to("b")
    (root / ".current").replace(root / "current")
    assert _state_of(files) != before


async def test_a_serving_agent_renews_in_time(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with enrolling(site) as running:
        assert running.endpoints.backend is not None
        given_to = await asyncio.to_thread(
            enrol_device, running.endpoints.backend, code_for(site, capsys), tmp_path / "identity"
        )
        folder = given_to.folder
        config = CloudConfig(
            target=given_to.target,
            ca=folder.authority,
            certificate=folder.certificate,
            key=folder.key,
        )
        # One that is due: the same key, two thirds of its life ago.
        key = serialization.load_pem_private_key(folder.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        aged = DeviceAuthority(
            site.root / "ca.crt", site.root / "ca.key", trusted=site.root / "ca.crt"
        ).certify(key.public_key(), NEW, days=90, now=dt.datetime.now(dt.UTC) - dt.timedelta(61))
        with opened_register(site.root / "cloud.toml") as (store, _, _):
            store.run_here(
                lambda connection: connection.execute(sa.update(DEVICES).values(serial=aged.serial))
            )
        folder.certificate.write_text(aged.pem)
        before = folder.certificate.resolve()
        with kept_certificate(config, look_every_s=0.05):
            async with asyncio.timeout(10):
                while folder.certificate.resolve() == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert not folder.is_due(dt.datetime.now(dt.UTC))
        assert await get_model(given_to.target, folder)
        first = folder.certificate.resolve()
        with kept_certificate(config, look_every_s=0.01):
            await asyncio.sleep(0.1)
        assert folder.certificate.resolve() == first  # no longer due


def test_codes_say_nothing_in_their_repr() -> None:
    code = EnrolmentCode(code_id="0" * 12, secret="1" * 32, pin="2" * 32)
    assert code.secret not in repr(code)
    assert EnrolmentCode.parse(code.text) == code
