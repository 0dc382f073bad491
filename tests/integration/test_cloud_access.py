"""Tenants, keys, tokens and quotas of a real service: deny, and say why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.cli import main
from cloud_service.tenancy.pki import CertificateFolder
from cloud_service.tenancy.roles import ALLOWED, OPEN, Role, may_call
from protos.enrolment.v1 import enrolment_pb2
from protos.errors import (
    PermissionDeniedError,
    QuotaExceededError,
    UnauthenticatedError,
    WireError,
    from_rpc_error,
)
from protos.feedback.v1 import feedback_pb2
from protos.inference.v1 import inference_pb2, inference_pb2_grpc
from protos.sync.v1 import sync_pb2, sync_pb2_grpc
from tests.cloud_harness import SCANNER, RunningCloud, Site, ask, running_cloud

BACKEND = {"backend_listen": "127.0.0.1:0"}
GET_MODEL = inference_pb2.GetModelRequest()


@pytest.fixture
def site(tmp_path: Path, model: Path) -> Site:
    made = Site.make(tmp_path / "site", model)
    (made.root / "cloud.toml").write_text(
        "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_authority = 'ca.crt'\n[state]\ndirectory = 'state'\n"
    )
    return made


def tenants(site: Site, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run ``cloud-service tenants``, beside the running service."""
    config = ["--config", str(site.root / "cloud.toml"), "--json"]
    assert main(["tenants", *arguments, *config]) == 0
    return json.loads(capsys.readouterr().out)


@contextlib.asynccontextmanager
async def backend_stub(cloud: RunningCloud) -> AsyncIterator[Any]:
    """A caller without certificate."""
    assert cloud.endpoints.backend is not None
    authority = CertificateFolder(cloud.site.root).authority.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(cloud.endpoints.backend, credentials) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        stub.channel = channel
        yield stub


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


async def sync_refusal(stub: Any, metadata: Any) -> WireError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call = stub.GetMetadata(sync_pb2.GetMetadataRequest(), timeout=10, metadata=metadata)
        await call
    return from_rpc_error(caught.value)


async def refusal(stub: Any, metadata: Any = None) -> WireError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetModel(GET_MODEL, timeout=10, metadata=metadata)
    return from_rpc_error(caught.value)


async def test_an_api_key_from_its_birth_to_its_end(
    site: Site, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_cloud(site, **BACKEND) as cloud, backend_stub(cloud) as stub:
        first = tenants(site, capsys, "add", "hospital")["api_key"]
        assert (await stub.GetModel(GET_MODEL, timeout=10, metadata=bearer(first))).model
        second = tenants(site, capsys, "rotate", "hospital")["api_key"]
        for key in (first, second):  # two at a time, while the backend changes over
            await stub.GetModel(GET_MODEL, timeout=10, metadata=bearer(key))
        third = tenants(site, capsys, "rotate", "hospital")["api_key"]
        assert isinstance(await refusal(stub, bearer(first)), UnauthenticatedError)
        await stub.GetModel(GET_MODEL, timeout=10, metadata=bearer(third))
        listed = tenants(site, capsys, "list")["tenants"]
        assert [(row["tenant"], row["keys"]) for row in listed] == [("hospital", 2)]
        tenants(site, capsys, "revoke", "hospital")
        assert isinstance(await refusal(stub, bearer(third)), UnauthenticatedError)
        database = b"".join(path.read_bytes() for path in (site.root / "state").glob("state.sq*"))
    for key in (first, second, third):
        secret = key.rpartition("_")[2]
        assert secret not in caplog.text
        assert secret.encode() not in database


async def test_without_key_or_with_a_wrong_one_nobody_gets_in(site: Site) -> None:
    async with running_cloud(site, **BACKEND) as cloud, backend_stub(cloud) as stub:
        assert isinstance(await refusal(stub), UnauthenticatedError)
        for wrong in ("", "tnd_", "tnd_0123456789ab_" + "0" * 64, "' OR 1=1 --", "x.y.z"):
            assert isinstance(await refusal(stub, bearer(wrong)), UnauthenticatedError)


async def test_a_revoked_tenants_certificates_are_refused(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    tenants(site, capsys, "revoke", SCANNER.tenant)
    async with running_cloud(site) as cloud, cloud.client() as client:
        assert isinstance(await refusal(client.inference), PermissionDeniedError)


async def test_a_certificate_alone_lets_nobody_in(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        running_cloud(site, tenants={"admitted": []}) as cloud,
        cloud.client() as client,
    ):
        assert isinstance(await refusal(client.inference), PermissionDeniedError)
        tenants(site, capsys, "add", SCANNER.tenant)
        await client.inference.GetModel(GET_MODEL, timeout=10)


async def test_an_api_key_asks_and_fetches_no_releases(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_cloud(site, **BACKEND) as cloud, backend_stub(cloud) as stub:
        key = bearer(tenants(site, capsys, "add", "hospital")["api_key"])
        events = [event async for event in stub.Generate(ask(), timeout=30, metadata=key)]
        assert events[-1].HasField("finished")
        await stub.Probe(inference_pb2.ProbeRequest(), timeout=10, metadata=key)
        sync = sync_pb2_grpc.SyncServiceStub(stub.channel)
        assert isinstance(await sync_refusal(sync, key), PermissionDeniedError)


def test_every_method_names_who_may_call_it() -> None:
    """One that is served and not listed is refused to everybody."""
    served = {
        (service.full_name, method.name)
        for file in (inference_pb2, feedback_pb2, sync_pb2, enrolment_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert served == {key for key in ALLOWED if key[0].startswith("tandem.")} | OPEN
    assert {method for _, method in OPEN} == {"GetAuthority", "Enrol"}  # nothing else to strangers
    assert not may_call(Role.DEVICE, "tandem.inference.v1.InferenceService", "Other")
    assert not any(may_call(Role.OPERATOR, *key) for key in served if key[1] == "Generate")


class TestTokens:
    """Tokens beside and instead of certificates."""

    @pytest.fixture
    def key(self, site: Site) -> Ed25519PrivateKey:
        key = Ed25519PrivateKey.generate()
        folder = site.root / "tokens"
        folder.mkdir()
        (folder / "k1.pem").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return key

    def token(self, key: Any, **changes: Any) -> str:
        now = int(time.time())
        headers = {"kid": changes.pop("kid", "k1")}
        algorithm = changes.pop("algorithm", "EdDSA")
        claims = {
            "aud": "tandem",
            "iat": now,
            "exp": now + 600,
            "tenant": SCANNER.tenant,
            "device": SCANNER.device,
            "role": "device",
            **changes,
        }
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers)

    async def test_who_may_and_who_may_not(self, site: Site, key: Ed25519PrivateKey) -> None:
        sections: dict[str, Any] = {
            **BACKEND,
            "tenants": {"token_keys": str(site.root / "tokens")},
        }
        now = int(time.time())
        async with (
            running_cloud(site, **sections) as cloud,
            backend_stub(cloud) as stub,
            cloud.client() as client,
        ):
            good = self.token(key)
            await stub.GetModel(GET_MODEL, timeout=10, metadata=bearer(good))
            await client.inference.GetModel(GET_MODEL, timeout=10, metadata=bearer(good))
            refused = [
                self.token(key, exp=now - 120, iat=now - 700),
                self.token(key, aud="other"),
                self.token(key, kid="k2"),
                self.token(key, kid="../k1"),
                self.token(key, exp=now + 86400),
                self.token(key, tenant="../clinic"),
                self.token(key, tenant="clinic' OR '1'='1"),
                self.token(key, device=["scanner-1"]),
                self.token(key, role="root"),
                self.token(key, role=None),
                self.token(key, nbf=now + 600),
                self.token(Ed25519PrivateKey.generate()),
                self.token("s" * 32, algorithm="HS256"),
                self.token(None, algorithm="none"),
            ]
            for wrong in refused:
                assert isinstance(await refusal(stub, bearer(wrong)), UnauthenticatedError)
                assert isinstance(
                    await refusal(client.inference, bearer(wrong)), UnauthenticatedError
                )
            for stolen in (self.token(key, device="scanner-2"), self.token(key, tenant="rival")):
                error = await refusal(client.inference, bearer(stolen))
                assert isinstance(error, PermissionDeniedError)
            assert cloud.server.metrics.identity_mismatch._value.get() == 2

    async def test_a_token_of_the_command_line_and_its_role(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = site.root / "tokens"
        assert main(["tokens", "key", "k9", "--directory", str(folder), "--json"]) == 0
        private = json.loads(capsys.readouterr().out)["private_key"]
        assert os.stat(private).st_mode & 0o077 == 0  # noqa: PTH116  # a moment, in a test
        assert main(["tokens", "key", "../k9", "--directory", str(folder)]) == 1
        assert main(["tokens", "key", "k9", "--directory", str(folder)]) == 1  # never overwritten

        def issued(role: str) -> Any:
            words = ["--tenant", SCANNER.tenant, "--device", "desk-1", "--role", role]
            capsys.readouterr()
            assert main(["tokens", "issue", "--key", private, *words, "--json"]) == 0
            return bearer(json.loads(capsys.readouterr().out)["token"])

        section = {"token_keys": str(folder)}
        async with (
            running_cloud(site, **BACKEND, tenants=section) as cloud,
            backend_stub(cloud) as stub,
        ):
            operator, publisher = issued("operator"), issued("publisher")
            await stub.GetModel(GET_MODEL, timeout=10, metadata=operator)
            assert isinstance(await refusal(stub, publisher), PermissionDeniedError)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Generate(ask(), timeout=10, metadata=operator):
                    pass
            assert isinstance(from_rpc_error(caught.value), PermissionDeniedError)
            sync = sync_pb2_grpc.SyncServiceStub(stub.channel)
            assert isinstance(await sync_refusal(sync, operator), PermissionDeniedError)
            # Let through to the service, which has no releases here.
            assert not isinstance(await sync_refusal(sync, publisher), PermissionDeniedError)


async def test_calls_at_once_and_the_daily_budget(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    tenants(
        site, capsys, "add", SCANNER.tenant, "--concurrent-calls", "2", "--daily-micro-usd", "1000"
    )
    async with running_cloud(site) as cloud, cloud.client() as client:
        for _ in range(3):  # waves: what has ended is given back
            calls = [client.generate(ask(max_output_tokens=60)) for _ in range(5)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            refused = [from_rpc_error(r) for r in results if isinstance(r, grpc.RpcError)]
            assert len(refused) == 3
            for error in refused:
                assert isinstance(error, QuotaExceededError)
                assert error.quota == "concurrent_calls"
                assert error.retry_after_s is not None
        page = cloud.server.metrics.quota_rejected.labels(SCANNER.tenant, "concurrent_calls")
        assert page._value.get() == 9
    tenants(site, capsys, "list")
    async with (
        running_cloud(site, prices={"output_usd": 1000.0}) as cloud,
        cloud.client() as client,
    ):
        await client.generate(ask(max_output_tokens=5))
    async with (
        running_cloud(site) as cloud,
        cloud.client() as client,
    ):  # the bill outlives a restart
        error = await refusal(client.inference)
        assert isinstance(error, QuotaExceededError)
        assert error.quota == "daily_micro_usd"
