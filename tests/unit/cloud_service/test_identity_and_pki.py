"""Certificates for the workbench, and who they say is calling."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from cloud_service.cli import main
from cloud_service.errors import PkiError
from cloud_service.identity import Identity, identity_of
from cloud_service.tenancy import pki
from protos.errors import UnauthenticatedError

SCANNER = Identity(tenant="clinic", device="scanner-1")


def test_the_name_says_tenant_and_device() -> None:
    assert SCANNER.dns_name == "scanner-1.clinic.device.tandem.internal"
    assert identity_of([SCANNER.dns_name.encode()]) == SCANNER


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"a.b.device.tandem.internal", b"c.b.device.tandem.internal"],
        [b"clinic.device.tandem.internal"],
        [b"x.scanner.clinic.device.tandem.internal"],
        [b"scanner.clinic.device.tandem.internal.evil.example"],
        [b"scanner.clinic.device.tandem.internal\n"],
        [b"Scanner.clinic.device.tandem.internal"],
        [b"*.clinic.device.tandem.internal"],
        [b"-a.clinic.device.tandem.internal"],
        [b"scanner.clinic.deviceXtandem.internal"],
        ["scänner.clinic.device.tandem.internal".encode()],
        [b"\xff\xfe"],
    ],
)
def test_anything_else_is_nobody(names: list[bytes]) -> None:
    with pytest.raises(UnauthenticatedError):
        identity_of(names)


def test_init_makes_private_files_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "site"
    assert main(["init", str(root), "--tenant", "clinic", "--device", "scanner-1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    before = {path: path.read_bytes() for path in files}
    assert main(["init", str(root)]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert main(["issue", str(root), "--tenant", "clinic", "--device", "scanner-1"]) == 1
    assert {path: path.read_bytes() for path in files} == before
    assert main(["issue", str(root), "--tenant", "clinic", "--device", "scanner-2"]) == 0
    certificate = x509.load_pem_x509_certificate(Path(document["device_certificate"]).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SCANNER.dns_name]


def test_certificates_verify_against_the_authority(tmp_path: Path) -> None:
    folder = pki.create_authority(tmp_path, hosts=("localhost", "127.0.0.1", "::1"))
    pair = pki.issue_device(tmp_path, SCANNER)
    authority = x509.load_pem_x509_certificate(folder.authority.certificate.read_bytes())
    for path in (pair.certificate, folder.server.certificate):
        x509.load_pem_x509_certificate(path.read_bytes()).verify_directly_issued_by(authority)


@pytest.mark.parametrize("name", ["", "a.b", "../x", "UPPER", "a_b", "x" * 64, "é"])
def test_names_that_are_no_label_are_refused(tmp_path: Path, name: str) -> None:
    pki.create_authority(tmp_path)
    with pytest.raises(PkiError):
        pki.issue_device(tmp_path, Identity(tenant=name, device="a"))
    with pytest.raises(PkiError):
        pki.issue_device(tmp_path, Identity(tenant="a", device=name))


def test_issuing_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="cloud-service init"):
        pki.issue_device(tmp_path, SCANNER)
