"""VERIFY whole: the device's own model drafts, the real cloud service verifies over mutual TLS, the text is the cloud's own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_service.tenancy.pki import CertificateFolder
from edge_agent.cloud.client import CloudClient, TlsFiles
from edge_agent.cloud.cloud import CloudAnswer, GenerateOptions, WireIds
from edge_agent.extend.verified_answer import VerifiedAnswers
from edge_agent.local_model import LocalModel
from partition.extend.draft_length import RoundCosts
from partition.stages.stage_range import Precision
from protos.request_id import new_request_id
from tests.cloud_harness import SCANNER, CloudProcess, Site, cloud_process
from tests.simulators import TcpProxy, make_anonymized
from tests.tiny_models import make_folder

COSTS = RoundCosts(draft_s=1e-3, verify_base_s=1e-2, verify_per_draft_s=1e-4, round_trip_s=1e-2)
OPTIONS = {
    "greedy": GenerateOptions(max_output_tokens=32),
    "seeded": GenerateOptions(max_output_tokens=32, temperature=1.0, top_k=20, top_p=0.9, seed=11),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    model = make_folder(
        tmp_path_factory.mktemp("model") / "large", architecture="qwen2", seed=3, head_dim=16
    )
    return Site.make(tmp_path_factory.mktemp("site"), model)


@pytest.fixture(scope="module")
def cloud(site: Site) -> Iterator[CloudProcess]:
    with cloud_process(site) as process:
        yield process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """Another model with the same tokenizer: a poor drafter, which must not matter."""
    root = tmp_path_factory.mktemp("device")
    opened = LocalModel.open(
        make_folder(root / "small", architecture="qwen2", seed=4, head_dim=16),
        threads=1,
        max_memory_mb=None,
        context_tokens=512,
        cache_dir=root,
        precision=Precision.FLOAT32,
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def twin(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """The large model itself, which drafts what it will say."""
    opened = LocalModel.open(
        site.model,
        threads=1,
        max_memory_mb=None,
        context_tokens=512,
        cache_dir=tmp_path_factory.mktemp("twin"),
        precision=Precision.FLOAT32,
    )
    yield opened
    opened.close()


@contextmanager
def client_of(site: Site, address: str) -> Iterator[CloudClient]:
    folder = CertificateFolder(site.root)
    pair = folder.device(SCANNER)
    files = TlsFiles(ca=folder.authority.certificate, certificate=pair.certificate, key=pair.key)
    client = CloudClient(address, credentials=files, wire_ids=WireIds(bytes(32)))
    try:
        yield client
    finally:
        client.close()


def alone(client: CloudClient, text: str, options: GenerateOptions) -> CloudAnswer:
    anonymized = make_anonymized(text, request_id=new_request_id())
    return client.generate(anonymized, options=options, deadline_s=60)


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_text_is_the_clouds_own(
    site: Site, cloud: CloudProcess, model: LocalModel, kind: str
) -> None:
    with client_of(site, str(cloud.ready["address"])) as client:
        answers = VerifiedAnswers(client, costs=COSTS)
        for number in range(10):
            options = replace(OPTIONS[kind], seed=number)
            text = f"Is the heart of number {number} enlarged?"
            assert answers.why_not(model, options) == ""
            found = answers.answer(model, make_anonymized(text), options)
            assert found.is_whole
            assert found.text == alone(client, text, options).text
            assert found.fingerprint == client.get_model().fingerprint


def test_over_a_link_that_is_cut_in_mid_answer(
    site: Site, cloud: CloudProcess, model: LocalModel
) -> None:
    port = int(str(cloud.ready["address"]).rpartition(":")[2])
    options = OPTIONS["seeded"]
    with TcpProxy(port) as proxy, client_of(site, proxy.target) as client:
        answers = VerifiedAnswers(client, costs=COSTS)
        pieces: list[str] = []

        def on_text(piece: str) -> None:
            pieces.append(piece)
            if len(pieces) in (3, 9):
                proxy.reset()

        found = answers.answer(model, make_anonymized("Is it large?"), options, on_text=on_text)
        assert found.is_whole
        assert found.text == "".join(pieces) == alone(client, "Is it large?", options).text


def test_a_cloud_that_is_gone_leaves_a_flagged_answer(
    site: Site, tmp_path: Path, model: LocalModel
) -> None:
    own = Site.make(tmp_path / "site", site.model)
    options = OPTIONS["seeded"]
    with cloud_process(own) as process, client_of(own, str(process.ready["address"])) as client:
        answers = VerifiedAnswers(client, costs=COSTS)
        whole = alone(client, "Is it large?", options).text
        pieces: list[str] = []

        def on_text(piece: str) -> None:
            pieces.append(piece)
            if len(pieces) == 3:
                process.stop(signal.SIGKILL)

        found = answers.answer(model, make_anonymized("Is it large?"), options, on_text=on_text)
    assert not found.is_whole
    assert found.result.unverified_from is not None
    verified = found.text[: found.num_verified_characters].rstrip("\ufffd")
    assert verified
    assert whole.startswith(verified)


def test_a_model_that_guesses_well_saves_round_trips(
    site: Site, cloud: CloudProcess, twin: LocalModel
) -> None:
    with client_of(site, str(cloud.ready["address"])) as client:
        found = VerifiedAnswers(client, costs=COSTS).answer(
            twin, make_anonymized("Is it large?"), OPTIONS["greedy"]
        )
    assert found.is_whole
    assert found.result.num_accepted == found.result.num_drafted > 0
    assert 2 * found.result.num_rounds < len(found.result.ids)
